//! `blackstart policy check`: each file as a run would read it, and everything that is wrong with it.

use std::path::Path;

use blackstart_core::policy::{Diagnostic, Layer, Severity};

use crate::answers::{self, CheckedFile};
use crate::args::{Check, Format};
use crate::diagnostics::{self, Texts};
use crate::layers::{self, Files};
use crate::plain::{Paint, Plain};
use crate::resolve::{self, Asked, Problem, Surroundings};

/// What was found.
pub(crate) struct Checked {
    /// To be shown.
    pub(crate) text: String,
    /// Could every file be used?
    pub(crate) valid: bool,
}

/// What was found in one file.
#[derive(Default)]
struct Finding {
    file: String,
    /// What is wrong with no place in any text.
    messages: Vec<String>,
    diagnostics: Vec<Diagnostic>,
    texts: Texts,
}

/// Check all of them.
pub(crate) fn check(typed: &Check, around: &Surroundings, paint: Paint) -> Checked {
    let mut files = Files::default();
    let guardrails = files.guardrails(&around.guardrails);
    let mut findings = Vec::new();
    // Of the guardrails only what keeps a run from being judged at all is told: they are not what was asked for.
    let mut of_guardrails = Finding {
        file: around.guardrails.display().to_string(),
        messages: files.messages.clone(),
        diagnostics: files.diagnostics.clone(),
        texts: files.texts.clone(),
    };
    of_guardrails
        .diagnostics
        .retain(|diagnostic| diagnostic.severity == Severity::Error);
    let sound = of_guardrails.is_valid();
    if !sound && !typed.guardrail {
        findings.push(of_guardrails);
    }
    for path in &typed.files {
        let is_guardrail = typed.guardrail || layers::lies_in(path, &around.guardrails);
        findings.push(if is_guardrail || !sound {
            one(
                typed,
                path,
                is_guardrail,
                Files::default(),
                Vec::new(),
                around,
            )
        } else {
            one(
                typed,
                path,
                false,
                files.clone(),
                guardrails.clone(),
                around,
            )
        });
    }
    let valid = findings.iter().all(Finding::is_valid);
    let text = match typed.format {
        Format::Human => findings.iter().map(|each| each.human(paint)).collect(),
        Format::Json => {
            let files = findings.iter().map(Finding::document).collect();
            answers::printed(&answers::Checked::new(valid, files))
        }
    };
    Checked { text, valid }
}

/// One file, below guardrails that were read by way of `files`.
fn one(
    typed: &Check,
    path: &Path,
    is_guardrail: bool,
    mut files: Files,
    mut layers: Vec<Layer>,
    around: &Surroundings,
) -> Finding {
    files.diagnostics.clear();
    let others: Vec<String> = files.texts.keys().cloned().collect();
    let mut layer = files.layer(path, is_guardrail);
    layer.checked = true;
    layers.push(layer);
    let asked = Asked {
        layers,
        catalog: typed.catalog.as_deref(),
        mode: None,
        service: None,
    };
    let mut finding = Finding {
        file: path.display().to_string(),
        ..Finding::default()
    };
    match resolve::resolved(files, asked, around) {
        Ok(effective) => {
            match resolve::compiled(&effective) {
                Ok(_) => {}
                Err(Problem::Message(message)) => finding.messages.push(message),
                Err(Problem::Policy { diagnostics, .. }) => finding.diagnostics = diagnostics,
            }
            finding.messages.extend(effective.remarks);
            finding.diagnostics.extend(effective.warnings);
            finding.texts = effective.texts;
        }
        Err(problems) => {
            for problem in problems {
                match problem {
                    Problem::Message(message) => finding.messages.push(message),
                    Problem::Policy { texts, diagnostics } => {
                        finding.texts = texts;
                        finding.diagnostics = diagnostics;
                    }
                }
            }
        }
    }
    finding.diagnostics.retain(|diagnostic| {
        diagnostic.severity == Severity::Error || !others.contains(&diagnostic.file)
    });
    finding
}

impl Finding {
    fn is_valid(&self) -> bool {
        let wrong = |diagnostic: &Diagnostic| diagnostic.severity == Severity::Error;
        self.messages.is_empty() && !self.diagnostics.iter().any(wrong)
    }

    fn human(&self, paint: Paint) -> String {
        let mut text = diagnostics::human(&self.diagnostics, &self.texts, paint);
        for message in &self.messages {
            text.push_str(&format!("{} {}\n", paint.bad("error:"), Plain(message)));
        }
        if self.is_valid() {
            let with = match self.diagnostics.len() {
                0 => String::new(),
                warnings => format!(", {warnings} to look at"),
            };
            let valid = paint.good("valid");
            text.push_str(&format!("{}: {valid}{with}\n", Plain(&self.file)));
        }
        text
    }

    fn document(&self) -> CheckedFile {
        CheckedFile {
            file: self.file.clone(),
            valid: self.is_valid(),
            error: (!self.messages.is_empty()).then(|| self.messages.join("; ")),
            diagnostics: answers::Finding::all(&self.diagnostics),
        }
    }
}
