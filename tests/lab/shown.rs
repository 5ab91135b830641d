//! What a test has shown of a case: the technique worked outside, and inside one of the named outcomes was asserted.
//!
//! A test declares its case with [`case!`](crate::case), and says what it sees. Nothing is written unless the test comes to its end:
//! then one small file, below `target/cases` or where `BLACKSTART_CASES` says (`-`: a line on stdout, as in an emulated machine).
//! `blackstart-coverage` reads them (see [`crate::coverage`]).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use blackstart_core::report::{Report, Verdict};
use serde_json::{Value, json};

use crate::cases::{Whose, numbered};
use crate::child::Ended;
use crate::workspace::root;

/// What became of a technique.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It is refused where the policy says so.
    Refused,
    /// It passes, and is recorded with its process.
    Recorded,
    /// Nothing runs.
    RefusedAtStart,
    /// The report names that it could not be seen.
    Gap,
    /// It is nothing that reaches out: what it asks for is so.
    Kept,
    /// It could not be tried on this machine.
    Skipped,
}

impl Outcome {
    const ALL: [Self; 6] = [
        Self::Refused,
        Self::Recorded,
        Self::RefusedAtStart,
        Self::Gap,
        Self::Kept,
        Self::Skipped,
    ];

    /// As it is written.
    pub fn text(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Recorded => "recorded",
            Self::RefusedAtStart => "refused at start",
            Self::Gap => "gap",
            Self::Kept => "kept",
            Self::Skipped => "skipped",
        }
    }

    /// What is written so.
    pub fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.text() == text)
    }
}

/// Whether the run could leave its guard behind (`--contain`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Held {
    /// Not contained.
    Loosely,
    /// Contained.
    Contained,
}

impl Held {
    /// How a run of these arguments and this policy is held, where nothing is missing.
    pub fn by(arguments: &[String], policy: &str) -> Self {
        let has = |flag: &str| arguments.iter().any(|one| one == flag);
        let says = |key: &str| policy.lines().any(|line| line.trim_end() == key);
        let begins = |flag: &str| arguments.iter().any(|one| one.starts_with(flag));
        let off = has("--no-contain") || begins("--break-glass");
        let observed = arguments.windows(2).any(|two| two == ["--mode", "observe"]);
        let enforced = says("mode: enforce") && !observed && !has("--mode=observe");
        if has("--contain") || (enforced && says("default: deny") && !off) {
            Self::Contained
        } else {
            Self::Loosely
        }
    }
}

/// A guarded run, as far as an outcome is seen in it.
pub trait Judged {
    /// Exit code of `blackstart`.
    fn code(&self) -> i32;
    /// What the run told, if it did.
    fn report(&self) -> Option<&Report>;
    /// How it was held.
    fn held(&self) -> Held;
}

/// `blackstart` itself, where a test runs it by hand.
impl Judged for Ended {
    fn code(&self) -> i32 {
        self.code
    }

    fn report(&self) -> Option<&Report> {
        None
    }

    fn held(&self) -> Held {
        Held::Loosely
    }
}

/// One technique of a case, in one test. Dropped at the test's end, it is written down.
#[derive(Debug)]
pub struct Shown {
    number: u8,
    how: &'static str,
    test: String,
    outside: Cell<bool>,
    said: RefCell<BTreeMap<Held, Outcome>>,
    why: RefCell<String>,
}

/// The case of this number, shown by the test that this stands in; a second argument tells one technique from the others.
#[macro_export]
macro_rules! case {
    ($number:expr) => {
        $crate::case!($number, "")
    };
    ($number:expr, $how:expr) => {{
        fn here() {}
        $crate::shown::Shown::new($number, $how, std::any::type_name_of_val(&here))
    }};
}

impl Shown {
    /// For [`case!`](crate::case): `place` is the path of something in the test.
    #[doc(hidden)]
    #[track_caller]
    pub fn new(number: u8, how: &'static str, place: &str) -> Self {
        // They are cells of a table.
        assert!(!how.contains(['|', '\n']), "{how:?}");
        let place = place.replace("::{{closure}}", "");
        let test = place.strip_suffix("::here").expect("as the macro gives it");
        let test = test.replace("blackstart_lab_vm::", "bin/vm/");
        numbered(number);
        let shown = Self {
            number,
            how,
            test,
            outside: Cell::new(false),
            said: RefCell::default(),
            why: RefCell::default(),
        };
        // What an earlier run of this test said is no word of this one.
        if let Some(file) = shown.file() {
            let _ = fs::remove_file(file);
        }
        shown
    }

    /// What tells this technique from the others of its case.
    pub fn how(&self) -> &'static str {
        self.how
    }

    /// Outside, the technique works.
    #[track_caller]
    pub fn outside(&self, ended: &Ended) -> &Self {
        assert_eq!(ended.code, 0, "outside it should work: {ended:?}");
        self.worked_outside()
    }

    /// The same, as the test has seen for itself.
    pub fn worked_outside(&self) -> &Self {
        self.outside.set(true);
        self
    }

    /// The run was refused it: its report tells of a refusal, or the command failed of it.
    #[track_caller]
    pub fn refused(&self, run: &impl Judged) -> &Self {
        let told = run.report().is_some_and(tells_of_a_refusal);
        assert!(
            told || (1..120).contains(&run.code()),
            "case {} {}: nothing was refused: exit code {}",
            self.number,
            self.how,
            run.code()
        );
        self.is(Outcome::Refused, run.held())
    }

    /// It passed, and the run's report has it with its process.
    #[track_caller]
    pub fn recorded(&self, run: &impl Judged) -> &Self {
        assert!(
            run.report().is_some_and(has_somebody),
            "case {} {}: nothing is recorded with its process",
            self.number,
            self.how
        );
        self.is(Outcome::Recorded, run.held())
    }

    /// The run's report names that it could not be seen, by a gap of this kind.
    #[track_caller]
    pub fn gap(&self, run: &impl Judged, kind: &str) -> &Self {
        let gaps = run.report().map(|report| &report.coverage.gaps);
        assert!(
            gaps.is_some_and(|gaps| gaps.iter().any(|gap| gap.kind == kind)),
            "case {} {}: no gap {kind} in {gaps:?}",
            self.number,
            self.how
        );
        self.is(Outcome::Gap, run.held())
    }

    /// Nothing ran.
    #[track_caller]
    pub fn refused_at_start(&self, run: &impl Judged) -> &Self {
        assert_eq!(run.code(), 125, "case {} {}", self.number, self.how);
        self.is(Outcome::RefusedAtStart, run.held())
    }

    /// What the test has seen in another way than in the report of a run that ended of itself.
    #[track_caller]
    pub fn is(&self, outcome: Outcome, held: Held) -> &Self {
        let reaches_out = matches!(outcome, Outcome::Refused | Outcome::Recorded | Outcome::Gap);
        assert!(
            !reaches_out || self.outside.get(),
            "case {} {}: that it works outside is to be shown first",
            self.number,
            self.how
        );
        let before = self.said.borrow_mut().insert(held, outcome);
        assert!(
            before.is_none_or(|before| before == outcome),
            "case {} {}, {held:?}: {before:?} and {outcome:?}: give the two techniques a name each",
            self.number,
            self.how
        );
        self
    }

    /// It cannot be tried here.
    pub fn skipped(&self, why: &str) {
        eprintln!("skipped: case {} {}: {why}", self.number, self.how);
        self.why.replace(why.to_owned());
        let both = [Held::Loosely, Held::Contained].map(|held| (held, Outcome::Skipped));
        self.said.replace(BTreeMap::from(both));
    }

    /// As it is written; `None` where there are no files.
    fn file(&self) -> Option<PathBuf> {
        let name = format!("{:02} {} {}", self.number, self.how, self.test);
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let name: String = name.chars().map(plain).collect();
        Some(place()?.join(format!("{name}.json")))
    }

    fn record(&self) -> Value {
        let said = self.said.borrow();
        let outcome = |held| said.get(&held).map(|outcome| outcome.text());
        json!({
            "case": self.number,
            "how": self.how,
            "test": self.test,
            "worked_outside": self.outside.get(),
            "loosely": outcome(Held::Loosely),
            "contained": outcome(Held::Contained),
            "why": *self.why.borrow(),
        })
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        // A test that failed has shown nothing.
        if std::thread::panicking() {
            return;
        }
        assert!(
            !self.said.borrow().is_empty(),
            "case {} {} was declared, and nothing said of it",
            self.number,
            self.how
        );
        match self.file() {
            None => println!("{LINE}{}", self.record()),
            Some(file) => {
                fs::create_dir_all(file.parent().expect("it lies in a directory"))
                    .expect("make the directory of what the tests show");
                fs::write(&file, format!("{}\n", self.record())).expect("write what a test shows");
            }
        }
    }
}

/// What a line begins with on a machine that keeps no files.
pub const LINE: &str = "case: ";

/// Where the files are; `None` for lines on stdout.
pub fn place() -> Option<PathBuf> {
    match std::env::var_os("BLACKSTART_CASES") {
        Some(place) if place == "-" => None,
        Some(place) => Some(place.into()),
        None => Some(target().join("cases")),
    }
}

/// Where cargo builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// What was written down: of the case that this text is of.
///
/// # Errors
///
/// A text that this did not write.
pub fn read(text: &str) -> Result<Said, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("{error}: {text}"))?;
    let word = |key: &str| value[key].as_str().map(str::to_owned);
    let outcome = |key: &str| word(key).and_then(|text| Outcome::of(&text));
    let number = value["case"].as_u64().and_then(|n| u8::try_from(n).ok());
    let said = number.zip(word("how")).zip(word("test"));
    let ((case, how), test) = said.ok_or_else(|| format!("not of a case: {text}"))?;
    Ok(Said {
        case,
        how,
        test,
        loosely: outcome("loosely"),
        contained: outcome("contained"),
        why: word("why").unwrap_or_default(),
    })
}

/// What one test said of one technique.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The case's number.
    pub case: u8,
    /// The technique, where there are several.
    pub how: String,
    /// File and name of the test.
    pub test: String,
    /// What became of it in a run that is not contained.
    pub loosely: Option<Outcome>,
    /// And in one that is.
    pub contained: Option<Outcome>,
    /// Why it was skipped.
    pub why: String,
}

/// As the table has it.
pub(crate) fn letter(whose: Whose) -> &'static str {
    match whose {
        Whose::Accident => "A",
        Whose::Hostile => "H",
    }
}

fn tells_of_a_refusal(report: &Report) -> bool {
    let denied = |verdict: Verdict| verdict == Verdict::Deny;
    report.flows.iter().any(|one| denied(one.verdict))
        || report.names.iter().any(|one| denied(one.verdict))
        || report.delegates.iter().any(|one| denied(one.verdict))
        || report
            .findings
            .iter()
            .any(|one| one.kind == "denied_socket")
}

fn has_somebody(report: &Report) -> bool {
    report.flows.iter().any(|one| one.subject.is_some())
        || report.names.iter().any(|one| one.subject.is_some())
        || report.delegates.iter().any(|one| one.subject.is_some())
        || report.findings.iter().any(|one| !one.subjects.is_empty())
}

/// The policy in a file, as far as it can be read.
pub(crate) fn policy_of(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_default()
}
