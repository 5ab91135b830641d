//! What the tests have shown of the cases, beside `docs/coverage.md`.
//!
//! - `blackstart-coverage check`: after the lab's tests: the table says what they said, or this fails.
//! - `blackstart-coverage check kernels`: the same after `make vm`, for the kernels that were played.
//! - `blackstart-coverage write`: make the table anew, after all of the lab's tests. Of a kernel that was not played it keeps what is there.
//! - `blackstart-coverage write some`: take in what some of the tests said, and keep the rest.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use blackstart_lab::coverage::{HERE, Table, add, compare, document, lacks, parse};
use blackstart_lab::shown::{LINE, Said, place, read, target};
use blackstart_lab::workspace::root;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["check"] => here().and_then(|said| check(&BTreeMap::from([(HERE.to_owned(), said)]))),
        ["check", "kernels"] => kernels().and_then(|said| check(&said)),
        ["write"] => write(false),
        ["write", "some"] => write(true),
        _ => Err("check [kernels], or write [some]".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("blackstart-coverage: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What was said, by place.
type Places = BTreeMap<String, Vec<Said>>;

fn path() -> PathBuf {
    root().join("docs/coverage.md")
}

fn committed() -> Result<Table, String> {
    parse(&text_of(&path())?)
}

fn text_of(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// What the lab's tests said here.
fn here() -> Result<Vec<Said>, String> {
    let place = place().ok_or("BLACKSTART_CASES is no directory")?;
    let files = fs::read_dir(&place).map_err(|error| {
        format!(
            "{}: {error}: the lab's tests come first (make lab)",
            place.display()
        )
    })?;
    files
        .flatten()
        .map(|entry| read(&text_of(&entry.path())?))
        .collect()
}

/// What the stories said in the machines that were played.
fn kernels() -> Result<Places, String> {
    let mut places = Places::new();
    for entry in fs::read_dir(target().join("vm"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let path = entry.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        if path.extension().is_some_and(|ending| ending == "cases") {
            let said = text_of(&path)?
                .lines()
                .map(|line| read(line.strip_prefix(LINE).unwrap_or(line)))
                .collect::<Result<_, _>>()?;
            places.insert(name.into_owned(), said);
        }
    }
    Ok(places)
}

fn check(places: &Places) -> Result<(), String> {
    let committed = committed()?;
    let mut wrong = lacks(&committed);
    for (place, said) in places {
        let mut table = Table::new();
        for one in said {
            add(&mut table, place, one)?;
        }
        let found = compare(&committed, &table, place);
        for told in found.told {
            println!("blackstart-coverage: {told}");
        }
        wrong.extend(found.wrong);
    }
    for one in &wrong {
        eprintln!("blackstart-coverage: {one}");
    }
    if !wrong.is_empty() {
        return Err(
            "docs/coverage.md is not what the tests showed: `make coverage`, if they are right"
                .to_owned(),
        );
    }
    let names: Vec<_> = places.keys().map(String::as_str).collect();
    println!(
        "blackstart-coverage: all cases are as the table says ({})",
        names.join(" ")
    );
    Ok(())
}

fn write(some: bool) -> Result<(), String> {
    let mut places = kernels()?;
    places.insert(HERE.to_owned(), here()?);
    let mut table = Table::new();
    for (place, said) in &places {
        for one in said {
            add(&mut table, place, one)?;
        }
    }
    // What was not asked this time stays: kernels that were not played, and with `some` all that was not said anew.
    for (key, row) in committed()? {
        let new = table.entry(key).or_default();
        let keep = |place: &&String| !places.contains_key(*place) || (some && *place == HERE);
        let kept: Vec<_> = row.places.iter().filter(keep).cloned().collect();
        if !kept.is_empty() {
            new.loosely = new.loosely.or(row.loosely);
            new.contained = new.contained.or(row.contained);
        }
        let with = |test: &&String| some || (test.starts_with("bin/") && !kept.is_empty());
        new.tests.extend(row.tests.iter().filter(with).cloned());
        new.places.extend(kept);
        if new.why.is_empty() {
            new.why = row.why;
        }
    }
    table.retain(|_, row| !row.places.is_empty());
    for lack in lacks(&table) {
        eprintln!("blackstart-coverage: {lack}");
    }
    fs::write(path(), document(&table)).map_err(|error| format!("docs/coverage.md: {error}"))
}
