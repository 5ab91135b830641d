//! What `policy check`, `explain` and `test` answer to a program: the types of which the documents are made, and their
//! schemas.

use blackstart_core::explain::Explanation;
use blackstart_core::policy::{Diagnostic, Effect, Severity};
use blackstart_core::report::Mode;
use schemars::JsonSchema;
use serde::Serialize;

use crate::resolve::Problem;

/// Goes up where a key is removed or changes its meaning.
const VERSION: u32 = 1;

/// `policy check --format json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Checked {
    schema_version: u32,
    /// Every file can be used.
    valid: bool,
    /// The files in the order in which they were named; before them the directory of the host's guardrails, if something
    /// is wrong with these.
    files: Vec<CheckedFile>,
}

/// What was found in one file.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct CheckedFile {
    /// The file as it was named.
    pub(crate) file: String,
    /// It can be used.
    pub(crate) valid: bool,
    /// What is wrong with no place in any text.
    pub(crate) error: Option<String>,
    /// What is wrong, or ought to be looked at, in the order of the texts.
    pub(crate) diagnostics: Vec<Finding>,
}

/// Something to be mended or looked at, with its place.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Finding {
    /// How bad it is.
    severity: Grade,
    /// What and why.
    message: String,
    /// The file: the one that was named, or one that it includes, or one of the catalog.
    file: String,
    /// Line, from 1.
    line: usize,
    /// Column, from 1, in characters.
    column: usize,
    /// The first byte.
    start: usize,
    /// The byte after the last.
    end: usize,
    /// What to do.
    help: Option<String>,
}

/// How bad something is.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Grade {
    /// The file cannot be used.
    Error,
    /// It can.
    Warning,
}

/// `policy explain --format json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Explained<'a> {
    schema_version: u32,
    /// The policy's mode, all layers considered.
    mode: Mode,
    /// What holds where no rule does, all layers considered.
    default: Effect,
    explanation: &'a Explanation,
}

/// `policy test --format json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Tested<'a> {
    schema_version: u32,
    /// Every file can be used, and every case came out as expected.
    passed: bool,
    /// The files in the order in which they were named.
    files: Vec<TestedFile<'a>>,
}

/// What came out of one file's cases.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TestedFile<'a> {
    /// The file as it was named.
    pub(crate) file: &'a str,
    /// It can be used; if not, nothing was tested.
    pub(crate) valid: bool,
    /// All cases came out as expected.
    pub(crate) passed: bool,
    /// What is wrong with no place in any text.
    pub(crate) error: Option<String>,
    /// Where it cannot be used: what is wrong, or ought to be looked at.
    pub(crate) diagnostics: Vec<Finding>,
    /// Its cases in the order of the text.
    pub(crate) cases: Vec<TestedCase<'a>>,
}

/// What came out of one case.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TestedCase<'a> {
    /// The destination as it was written.
    pub(crate) to: &'a str,
    /// Where the case stands.
    pub(crate) file: &'a str,
    /// Line, from 1.
    pub(crate) line: usize,
    /// Column, from 1, in characters.
    pub(crate) column: usize,
    /// It came out as expected.
    pub(crate) passed: bool,
    /// If not, in what way.
    pub(crate) failure: Option<&'a str>,
    pub(crate) explanation: &'a Explanation,
}

impl Checked {
    pub(crate) fn new(valid: bool, files: Vec<CheckedFile>) -> Self {
        Self {
            schema_version: VERSION,
            valid,
            files,
        }
    }
}

impl<'a> Explained<'a> {
    pub(crate) fn new(mode: Mode, default: Effect, explanation: &'a Explanation) -> Self {
        Self {
            schema_version: VERSION,
            mode,
            default,
            explanation,
        }
    }
}

impl<'a> Tested<'a> {
    pub(crate) fn new(passed: bool, files: Vec<TestedFile<'a>>) -> Self {
        Self {
            schema_version: VERSION,
            passed,
            files,
        }
    }
}

impl Finding {
    /// All of them.
    pub(crate) fn all(diagnostics: &[Diagnostic]) -> Vec<Self> {
        diagnostics.iter().map(Self::of).collect()
    }

    fn of(diagnostic: &Diagnostic) -> Self {
        Self {
            severity: match diagnostic.severity {
                Severity::Error => Grade::Error,
                Severity::Warning => Grade::Warning,
            },
            message: diagnostic.message.clone(),
            file: diagnostic.file.clone(),
            line: diagnostic.line,
            column: diagnostic.column,
            start: diagnostic.span.start,
            end: diagnostic.span.end,
            help: diagnostic.help.clone(),
        }
    }
}

/// What is wrong, parted into what has no place and what has one.
pub(crate) fn parted(problems: &[Problem]) -> (Option<String>, Vec<Finding>) {
    let mut messages = Vec::new();
    let mut findings = Vec::new();
    for problem in problems {
        match problem {
            Problem::Message(message) => messages.push(message.as_str()),
            Problem::Policy { diagnostics, .. } => findings.extend(Finding::all(diagnostics)),
        }
    }
    let error = (!messages.is_empty()).then(|| messages.join("; "));
    (error, findings)
}

/// A document, as it is printed.
pub(crate) fn printed(document: &impl Serialize) -> String {
    // Nothing in these types can fail to be JSON: all keys are text.
    let value = serde_json::to_value(document).unwrap_or_default();
    format!("{value:#}\n")
}

/// The schema of each, by the command that answers with it.
#[cfg(test)]
pub(crate) fn schemas() -> [(&'static str, serde_json::Value); 7] {
    use crate::backtest::{Answer as Backtest, Differs};
    use crate::learn::Answer as Learn;
    use crate::promote::Answer as Promote;
    [
        ("learn", schemars::schema_for!(Learn<'_>).to_value()),
        ("backtest", schemars::schema_for!(Backtest).to_value()),
        ("diff", schemars::schema_for!(Differs).to_value()),
        ("promote", schemars::schema_for!(Promote).to_value()),
        ("check", schemars::schema_for!(Checked).to_value()),
        ("explain", schemars::schema_for!(Explained<'_>).to_value()),
        ("test", schemars::schema_for!(Tested<'_>).to_value()),
    ]
}
