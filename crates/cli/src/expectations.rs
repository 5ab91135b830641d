//! `blackstart policy test`: what policies do, held against what they say that they do.

use std::fmt::Write as _;
use std::path::Path;

use blackstart_core::explain::{Explanation, Question, explain};
use blackstart_core::policy::{Case, Policy};

use crate::answers::{self, TestedCase, TestedFile};
use crate::args::{Format, Test};
use crate::diagnostics;
use crate::explain as telling;
use crate::layers::{self, Files};
use crate::plain::{Paint, plain};
use crate::resolve::{self, Asked, Problem, Surroundings};

/// What came out.
pub(crate) struct Tested {
    /// To be shown.
    pub(crate) text: String,
    /// Is everything as expected?
    pub(crate) passed: bool,
}

/// One file, and what came out of its cases.
struct Tried {
    file: String,
    outcome: Result<(Policy, Vec<Outcome>), Vec<Problem>>,
}

/// One case: why it failed, if it did.
struct Outcome {
    case: Case,
    failure: Option<String>,
    explanation: Explanation,
}

/// Try all of them.
pub(crate) fn test(typed: &Test, around: &Surroundings, paint: Paint) -> Tested {
    let tried: Vec<Tried> = typed
        .files
        .iter()
        .map(|path| Tried {
            file: path.display().to_string(),
            outcome: one(typed, path, around),
        })
        .collect();
    let passed = tried.iter().all(Tried::passed);
    let text = match typed.format {
        Format::Human => tried.iter().map(|tried| tried.human(paint)).collect(),
        Format::Json => {
            let files = tried.iter().map(Tried::document).collect();
            answers::printed(&answers::Tested::new(passed, files))
        }
    };
    Tested { text, passed }
}

fn one(
    typed: &Test,
    path: &Path,
    around: &Surroundings,
) -> Result<(Policy, Vec<Outcome>), Vec<Problem>> {
    let is_guardrail = typed.guardrail || layers::lies_in(path, &around.guardrails);
    let mut files = Files::default();
    let mut layers = if typed.with_guardrails {
        files.guardrails_but(&around.guardrails, Some(path))
    } else {
        Vec::new()
    };
    layers.push(files.layer(path, is_guardrail));
    let asked = Asked {
        layers,
        catalog: typed.catalog.as_deref(),
        mode: None,
        service: None,
    };
    let effective = resolve::resolved(files, asked, around)?;
    let tables = resolve::compiled(&effective).map_err(|problem| vec![problem])?;
    let policy = effective.policy;
    let outcomes = effective.tests.into_iter().map(|case| {
        let explanation = explain(&policy, &tables, &Question::from(&case));
        Outcome {
            failure: explanation.meets(&case, &policy).err(),
            case,
            explanation,
        }
    });
    let outcomes = outcomes.collect();
    Ok((policy, outcomes))
}

impl Tried {
    fn passed(&self) -> bool {
        let outcomes = self.outcome.as_ref();
        outcomes.is_ok_and(|(_, outcomes)| outcomes.iter().all(|o| o.failure.is_none()))
    }

    fn human(&self, paint: Paint) -> String {
        let file = plain(&self.file);
        let (policy, outcomes) = match &self.outcome {
            Ok(outcomes) => outcomes,
            Err(problems) => {
                let mut text: String = problems.iter().map(|each| wrong(each, paint)).collect();
                let _ = writeln!(
                    text,
                    "{file}: {}",
                    paint.bad("not valid, nothing was tested")
                );
                return text;
            }
        };
        let mut text = String::new();
        for outcome in outcomes {
            let Some(failure) = &outcome.failure else {
                continue;
            };
            let _ = writeln!(
                text,
                "{}: {} {}: {}",
                plain(&outcome.case.place.line_of_file()),
                paint.bad("failed:"),
                plain(&outcome.case.text),
                plain(failure)
            );
            for line in telling::human(&outcome.explanation, policy, paint).lines() {
                let _ = writeln!(text, "{}", format!("  {line}").trim_end());
            }
        }
        let failed = outcomes.iter().filter(|o| o.failure.is_some()).count();
        let result = match (outcomes.len(), failed) {
            (0, _) => paint.doubtful("no tests"),
            (1, 0) => paint.good("1 test passed"),
            (all, 0) => paint.good(&format!("{all} tests passed")),
            (all, failed) => paint.bad(&format!("{failed} of {all} tests failed")),
        };
        let _ = writeln!(text, "{file}: {result}");
        text
    }

    fn document(&self) -> TestedFile<'_> {
        let ((error, diagnostics), outcomes) = match &self.outcome {
            Ok((_, outcomes)) => ((None, Vec::new()), outcomes.as_slice()),
            Err(problems) => (answers::parted(problems), &[][..]),
        };
        let cases = outcomes.iter().map(|outcome| TestedCase {
            to: &outcome.case.text,
            file: &outcome.case.place.file,
            line: outcome.case.place.line,
            column: outcome.case.place.column,
            passed: outcome.failure.is_none(),
            failure: outcome.failure.as_deref(),
            explanation: &outcome.explanation,
        });
        TestedFile {
            file: &self.file,
            valid: self.outcome.is_ok(),
            passed: self.passed(),
            error,
            diagnostics,
            cases: cases.collect(),
        }
    }
}

fn wrong(problem: &Problem, paint: Paint) -> String {
    match problem {
        Problem::Message(message) => format!("{} {}\n", paint.bad("error:"), plain(message)),
        Problem::Policy { texts, diagnostics } => diagnostics::human(diagnostics, texts, paint),
    }
}
