//! `docs/coverage.md`: made from what the tests have shown of each case, and held against it after they ran.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::cases::{CASES, PASSES, Whose};
use crate::shown::{Outcome, Said, letter};

/// The place that is no machine of the kernel matrix: the one that builds.
pub const HERE: &str = "here";

/// One row: what is known of one technique.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    /// What became of it in a run that is not contained.
    pub loosely: Option<Outcome>,
    /// And in one that is.
    pub contained: Option<Outcome>,
    /// The tests that show it.
    pub tests: BTreeSet<String>,
    /// Where they showed it: [`HERE`], and on the kernels of these names.
    pub places: BTreeSet<String>,
    /// Why it could not be tried.
    pub why: String,
}

/// All rows, by case and technique.
pub type Table = BTreeMap<(u8, String), Row>;

impl From<&Said> for Row {
    fn from(said: &Said) -> Self {
        Self {
            loosely: said.loosely,
            contained: said.contained,
            ..Self::default()
        }
    }
}

/// Could it not be tried at all? `None` where nothing is known of it.
fn is_skipped(row: &Row) -> Option<bool> {
    let outcomes = [row.loosely, row.contained];
    let mut known = outcomes.iter().flatten().peekable();
    known.peek()?;
    Some(known.all(|outcome| *outcome == Outcome::Skipped))
}

/// What was said at one place becomes part of the table. Two tests may show the same, but no two things.
///
/// # Errors
///
/// What contradicts what is there.
pub fn add(table: &mut Table, place: &str, said: &Said) -> Result<(), String> {
    let row = table.entry((said.case, said.how.clone())).or_default();
    // Where it could not be tried, nothing was shown: such a place stands in a row only if no other does.
    match (is_skipped(row), is_skipped(&Row::from(said))) {
        (Some(false), Some(true)) => {}
        (known, now) => {
            if (known, now) == (Some(true), Some(false)) {
                row.places.clear();
            }
            row.places.insert(place.to_owned());
        }
    }
    for (there, more) in [
        (&mut row.loosely, said.loosely),
        (&mut row.contained, said.contained),
    ] {
        match (*there, more) {
            (_, None) => {}
            // Where one could try it, it was tried.
            (None | Some(Outcome::Skipped), _) => *there = more,
            (_, Some(Outcome::Skipped)) => {}
            (Some(one), Some(other)) if one == other => {}
            (Some(one), Some(other)) => {
                return Err(format!(
                    "case {} {}: {} ({place}) says {}, and {:?} say {}",
                    said.case,
                    said.how,
                    said.test,
                    other.text(),
                    row.tests,
                    one.text()
                ));
            }
        }
    }
    row.tests.insert(said.test.clone());
    if row.why.is_empty() {
        row.why.clone_from(&said.why);
    }
    Ok(())
}

/// How what was said at `place` differs from the table that is committed: what is wrong, and what is only to be told.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// The table says what no test does.
    pub wrong: Vec<String>,
    /// What could not be tried at this place, or could at last.
    pub told: Vec<String>,
}

/// Hold the committed table against what was said at one place.
pub fn compare(committed: &Table, said: &Table, place: &str) -> Differences {
    let mut found = Differences::default();
    for ((case, how), row) in committed {
        if !row.places.contains(place) {
            continue;
        }
        let what = what(*case, how);
        let Some(now) = said.get(&(*case, how.clone())) else {
            found
                .wrong
                .push(format!("{what}: nothing was said of it at `{place}`"));
            continue;
        };
        for (column, there, now) in [
            ("", row.loosely, now.loosely),
            (" contained", row.contained, now.contained),
        ] {
            let words = format!("{what}{column}: {}", text(now));
            match (there, now) {
                (there, now) if there == now => {}
                // A story may try the one column, and the lab both: which kernels a row names says nothing of either.
                (_, None) if place != HERE => {}
                (_, Some(Outcome::Skipped)) => found
                    .told
                    .push(format!("{words} here, {} in the table", text(there))),
                (Some(Outcome::Skipped), _) => found
                    .told
                    .push(format!("{words} here, where the table has it skipped")),
                _ => found
                    .wrong
                    .push(format!("{words}, and {} in the table", text(there))),
            }
        }
        if place == HERE && row.tests != now.tests {
            // Those of the matrix are in the same cell.
            let of = |tests: &BTreeSet<String>| -> BTreeSet<String> {
                let here = tests.iter().filter(|test| !test.starts_with("bin/"));
                here.cloned().collect()
            };
            if of(&row.tests) != of(&now.tests) {
                found.wrong.push(format!(
                    "{what}: shown by {:?}, and by {:?} in the table",
                    of(&now.tests),
                    of(&row.tests)
                ));
            }
        }
    }
    for ((case, how), row) in said {
        let there = committed.get(&(*case, how.clone()));
        if there.is_some_and(|there| there.places.contains(place)) {
            continue;
        }
        let what = what(*case, how);
        // Elsewhere it was skipped, or it is here.
        let agrees = |there: &Row| {
            row.tests.is_subset(&there.tests)
                && (is_skipped(row) == Some(true)
                    || (row.loosely, row.contained) == (there.loosely, there.contained))
        };
        let words = format!(
            "{what}: {:?} say it at `{place}`, the table does not",
            row.tests
        );
        match there.is_some_and(agrees) {
            true => found.told.push(words),
            false => found.wrong.push(words),
        }
    }
    found
}

/// Does it pass, without its process in the report if it is an accident, or from a run that is contained if it is meant?
fn passes(whose: Whose, row: &Row) -> bool {
    match whose {
        Whose::Accident => [row.loosely, row.contained].contains(&Some(Outcome::Gap)),
        Whose::Hostile => matches!(
            row.contained,
            Some(Outcome::Gap | Outcome::Recorded | Outcome::Kept)
        ),
    }
}

/// What holds of any table: each case is in it, and of a hostile one both what becomes of it contained and what not. What passes is
/// listed with its reason, and nothing else is.
pub fn lacks(table: &Table) -> Vec<String> {
    let mut lacks = Vec::new();
    for case in &CASES {
        let rows = || {
            table
                .iter()
                .filter(|((number, _), _)| *number == case.number)
        };
        for ((_, how), row) in rows() {
            let listed = PASSES
                .iter()
                .any(|(number, of, _)| (number, of) == (&case.number, &&**how));
            if passes(case.whose, row) != listed {
                lacks.push(format!(
                    "{}: that it passes is {}",
                    what(case.number, how),
                    if listed {
                        "listed, and not so"
                    } else {
                        "so, and not listed"
                    }
                ));
            }
        }
        let has = |of: fn(&Row) -> Option<Outcome>| rows().any(|(_, row)| of(row).is_some());
        if rows().next().is_none() {
            lacks.push(format!("case {} has no test", case.number));
        } else if case.whose == Whose::Hostile {
            if !has(|row| row.loosely) {
                lacks.push(format!(
                    "case {} has no test without --contain",
                    case.number
                ));
            }
            if !has(|row| row.contained) {
                lacks.push(format!("case {} has no test with --contain", case.number));
            }
        }
    }
    lacks
}

/// The document.
pub fn document(table: &Table) -> String {
    let covered: BTreeSet<u8> = table.keys().map(|(case, _)| *case).collect();
    let mut text = format!(
        "# Which cases are covered, and by what\n\n\
         Made from what the tests of the lab said while they ran (`make coverage` after `make lab`); `make test` holds it against them. {} of {}\n\
         cases have a test. The technique is tried outside first, where it must work.\n\n\
         *Refused*: where the policy says so. *Recorded*: it passes, with its process in the report. *Refused at start*: nothing runs.\n\
         *Gap*: the report names that it could not be seen. *Kept*: it is nothing that reaches out, and what it asks for is so.\n\
         *Skipped*: it could not be tried on the machine that this was made on.\n\
         A: ordinary tools and mistakes; H: root inside the run that means it. A column for a run as it is by an enforced deny-list or with\n\
         `--no-contain`, and one for a run that is contained. `here` is the kernel of the machine that builds; the others are those of\n\
         `scripts/vm/kernels` on which the stories said the same.\n\n\
         | | | case | technique | outcome | contained | shown by | kernels |\n|---|---|---|---|---|---|---|---|\n",
        covered.len(),
        CASES.len()
    );
    let mut before = 0;
    for ((number, how), row) in table {
        let case = crate::cases::numbered(*number);
        let title = if before == *number { "" } else { case.title };
        before = *number;
        let tests: Vec<_> = row.tests.iter().map(|test| format!("`{test}`")).collect();
        let mut places: Vec<_> = row.places.iter().map(String::as_str).collect();
        places.sort_by_key(|place| *place != HERE);
        let _ = writeln!(
            text,
            "| {number} | {} | {title} | {how} | {} | {} | {} | {} |",
            letter(case.whose),
            cell(row.loosely),
            cell(row.contained),
            tests.join(", "),
            places.join(" ")
        );
    }
    let skipped = table.iter().filter(|(_, row)| {
        [row.loosely, row.contained].contains(&Some(Outcome::Skipped)) && !row.why.is_empty()
    });
    let skipped: Vec<_> = skipped
        .map(|((case, how), row)| format!("- {}: {}\n", what(*case, how), row.why))
        .collect();
    if !skipped.is_empty() {
        let _ = write!(text, "\n## Skipped\n\n{}", skipped.concat());
    }
    text.push_str(
        "\n## What passes, and why\n\n\
         Of all other rows of the table: an accident is refused, or recorded with its process; and what is hostile is refused to a run\n\
         that is contained.\n\n",
    );
    for (case, how, why) in PASSES {
        let _ = writeln!(text, "- {}: {why}", what(*case, how));
    }
    text.push_str("\n## What tests of the crates show besides\n\n");
    for case in CASES.iter().filter(|case| !case.besides.is_empty()) {
        let tests: Vec<_> = case
            .besides
            .iter()
            .map(|(file, test)| format!("`{}::{test}`", short(file)))
            .collect();
        let _ = writeln!(text, "- {}: {}", case.number, tests.join(", "));
    }
    text
}

/// The table of a document.
///
/// # Errors
///
/// A row that this did not write.
pub fn parse(document: &str) -> Result<Table, String> {
    let mut table = Table::new();
    for line in document.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["", number, _, _, how, loosely, contained, tests, places, ""] = cells[..] else {
            return Err(format!("no row of the table: {line}"));
        };
        // The heading.
        let Ok(number) = number.parse() else { continue };
        let outcome = |cell: &str| match cell {
            "" => Ok(None),
            text => Outcome::of(text)
                .map(Some)
                .ok_or_else(|| format!("`{text}` is no outcome: {line}")),
        };
        let row = Row {
            loosely: outcome(loosely)?,
            contained: outcome(contained)?,
            tests: tests
                .split(", ")
                .map(|test| test.trim_matches('`').to_owned())
                .collect(),
            places: places.split(' ').map(str::to_owned).collect(),
            why: String::new(),
        };
        table.insert((number, how.to_owned()), row);
    }
    let mut in_skipped = false;
    for line in document.lines() {
        in_skipped = (in_skipped || line == "## Skipped") && !line.starts_with("## W");
        let Some(rest) = line.strip_prefix("- ").filter(|_| in_skipped) else {
            continue;
        };
        let found = table.iter_mut().find_map(|((case, how), row)| {
            let why = rest.strip_prefix(&format!("{}: ", what(*case, how)))?;
            Some((row, why))
        });
        if let Some((row, why)) = found {
            why.clone_into(&mut row.why);
        }
    }
    Ok(table)
}

fn cell(outcome: Option<Outcome>) -> &'static str {
    outcome.map_or("", Outcome::text)
}

fn text(outcome: Option<Outcome>) -> &'static str {
    outcome.map_or("not tried", Outcome::text)
}

fn what(case: u8, how: &str) -> String {
    match how {
        "" => format!("case {case}"),
        how => format!("case {case}, {how}"),
    }
}

/// `crates/core/src/name/pattern.rs` is `core/name/pattern`.
fn short(file: &str) -> String {
    let file = file.strip_suffix(".rs").unwrap_or(file);
    let file = file.strip_prefix("crates/").unwrap_or(file);
    file.replace("/src/", "/").replace("/tests/", "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(case: u8, how: &str, outcome: Outcome) -> Said {
        Said {
            case,
            how: how.to_owned(),
            test: "contain::a_test".to_owned(),
            loosely: Some(outcome),
            contained: None,
            why: String::new(),
        }
    }

    fn table(all: &[Said]) -> Table {
        let mut table = Table::new();
        for said in all {
            add(&mut table, HERE, said).unwrap();
        }
        table
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut skipped = said(32, "SCTP", Outcome::Skipped);
        skipped.why = "this kernel has none".to_owned();
        let mut there = table(&[said(32, "ping", Outcome::Refused), skipped]);
        let mut elsewhere = said(32, "ping", Outcome::Refused);
        elsewhere.test = "bin/vm/stories::contained".to_owned();
        add(&mut there, "6.12", &elsewhere).unwrap();
        assert_eq!(parse(&document(&there)).unwrap(), there);
    }

    #[test]
    fn where_it_was_skipped_nothing_was_shown() {
        let refused = said(32, "SCTP", Outcome::Refused);
        let skipped = said(32, "SCTP", Outcome::Skipped);
        let places = |order: [(&str, &Said); 2]| {
            let mut table = Table::new();
            for (place, said) in order {
                add(&mut table, place, said).unwrap();
            }
            let (_, row) = table.into_iter().next().unwrap();
            assert_eq!(row.loosely, Some(Outcome::Refused));
            row.places.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(places([(HERE, &skipped), ("6.1", &refused)]), ["6.1"]);
        assert_eq!(places([("6.1", &refused), (HERE, &skipped)]), ["6.1"]);
        // That it is so is told, and no error.
        let mut committed = table(&[]);
        add(&mut committed, "6.1", &refused).unwrap();
        for here in [skipped, refused] {
            let found = compare(&committed, &table(&[here]), HERE);
            assert_eq!((found.wrong.len(), found.told.len()), (0, 1), "{found:?}");
        }
    }

    #[test]
    fn what_no_test_says_is_wrong_and_what_was_skipped_is_told() {
        let committed = table(&[
            said(32, "ping", Outcome::Refused),
            said(32, "SCTP", Outcome::Refused),
            said(32, "vsock", Outcome::Skipped),
            said(33, "", Outcome::Refused),
        ]);
        assert_eq!(
            compare(&committed, &committed, HERE),
            Differences::default()
        );
        let now = table(&[
            said(32, "ping", Outcome::Gap),
            said(32, "SCTP", Outcome::Skipped),
            said(32, "vsock", Outcome::Refused),
            said(34, "", Outcome::Refused),
        ]);
        let found = compare(&committed, &now, HERE);
        assert_eq!(
            found.wrong,
            [
                "case 32, ping: gap, and refused in the table",
                "case 33: nothing was said of it at `here`",
                "case 34: {\"contain::a_test\"} say it at `here`, the table does not",
            ]
        );
        assert_eq!(
            found.told,
            [
                "case 32, SCTP: skipped here, refused in the table",
                "case 32, vsock: refused here, where the table has it skipped",
            ]
        );
        // Nothing of this was said, or could have been, on another kernel.
        assert_eq!(
            compare(&committed, &Table::new(), "6.12"),
            Differences::default()
        );
    }

    #[test]
    fn a_story_of_another_kernel_may_try_one_column() {
        let both = Said {
            contained: Some(Outcome::Refused),
            ..said(28, "", Outcome::Refused)
        };
        let mut committed = table(&[both]);
        add(&mut committed, "6.12", &said(28, "", Outcome::Refused)).unwrap();
        let now = |outcome| table(&[said(28, "", outcome)]);
        let wrong = |now: &Table, place| compare(&committed, now, place).wrong.len();
        assert_eq!(wrong(&now(Outcome::Refused), "6.12"), 0);
        assert_eq!(wrong(&now(Outcome::Refused), HERE), 1);
        assert_eq!(wrong(&now(Outcome::Gap), "6.12"), 1);
    }

    #[test]
    fn two_tests_that_contradict_each_other_make_no_table() {
        let mut there = table(&[said(32, "ping", Outcome::Refused)]);
        assert!(add(&mut there, HERE, &said(32, "ping", Outcome::Gap)).is_err());
        assert_eq!(
            add(&mut there, HERE, &said(32, "ping", Outcome::Skipped)),
            Ok(())
        );
        let (_, row) = there.first_key_value().unwrap();
        assert_eq!(row.loosely, Some(Outcome::Refused));
    }

    #[test]
    fn a_hostile_case_is_to_be_tried_with_and_without_containment() {
        let lacking = lacks(&table(&[
            said(32, "", Outcome::Refused),
            said(31, "", Outcome::Recorded),
        ]));
        assert!(lacking.contains(&"case 32 has no test with --contain".to_owned()));
        assert!(!lacking.iter().any(|one| one.starts_with("case 31 ")));
        assert!(lacking.contains(&"case 33 has no test".to_owned()));
    }
}
