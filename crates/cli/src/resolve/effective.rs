//! The one policy that files make together, and its tables.

use std::ops::Range;
use std::path::Path;

use blackstart_core::policy::{self, Case, Diagnostic, Given, Layer, Policy, Severity};
use blackstart_core::report::{Mode, PolicySource};
use blackstart_core::tables::{Facts, Tables, compile};

use super::{Problem, Surroundings};
use crate::diagnostics::Texts;
use crate::layers::Files;

/// The policy that all files make together.
#[derive(Debug, Default)]
pub(crate) struct Effective {
    /// Where it came from.
    pub(crate) source: PolicySource,
    /// The policy.
    pub(crate) policy: Policy,
    /// The tests of the run's own file.
    pub(crate) tests: Vec<Case>,
    /// What its authors ought to look at.
    pub(crate) warnings: Vec<Diagnostic>,
    /// The texts that the warnings are about.
    pub(crate) texts: Texts,
    /// What whoever typed this ought to know, in one line each.
    pub(crate) remarks: Vec<String>,
}

/// The policy of a run that has none: what was typed has to stand in one.
pub(crate) fn bare(service: Option<String>, mode: Option<Mode>) -> Effective {
    Effective {
        policy: Policy {
            service,
            mode: mode.unwrap_or(Mode::Observe),
            ..Policy::default()
        },
        ..Effective::default()
    }
}

/// What a policy is to be made of.
pub(crate) struct Asked<'a> {
    /// The guardrails, and the file.
    pub(crate) layers: Vec<Layer>,
    /// Where the catalog is.
    pub(crate) catalog: Option<&'a Path>,
    /// The mode that was typed.
    pub(crate) mode: Option<Mode>,
    /// The service that was typed.
    pub(crate) service: Option<String>,
}

/// The policy that the layers make together, which were read by way of `files`.
pub(crate) fn resolved(
    mut files: Files,
    asked: Asked<'_>,
    around: &Surroundings,
) -> Result<Effective, Vec<Problem>> {
    // What is wrong with the catalog matters only to a policy that asks it for a service.
    let mut of_catalog = Files::default();
    let of_host = around.catalog.of_host();
    let path = asked.catalog.or(of_host.as_deref());
    let catalog = path.map(|path| of_catalog.catalog(path));
    let given = Given {
        layers: asked.layers,
        catalog: catalog.as_ref(),
        today: around.today,
        mode: asked.mode,
        service: asked.service,
        all_final: around.all_final,
    };
    let mut diagnostics = std::mem::take(&mut files.diagnostics);
    let policy = match policy::resolve(given) {
        Ok(mut effective) => {
            diagnostics.append(&mut effective.warnings);
            Some((effective.policy, effective.tests))
        }
        Err(mut wrong) => {
            diagnostics.append(&mut wrong);
            None
        }
    };
    files.sort(&mut diagnostics);
    diagnostics.append(&mut of_catalog.diagnostics);
    let source = files.source();
    let mut texts = files.texts;
    texts.append(&mut of_catalog.texts);
    let unread = !files.messages.is_empty();
    let wrong = |d: &Diagnostic| d.severity == Severity::Error && source.files.contains(&d.file);
    match policy.filter(|_| !unread && !diagnostics.iter().any(wrong)) {
        Some((policy, tests)) => Ok(Effective {
            source,
            policy,
            tests,
            warnings: diagnostics,
            texts,
            remarks: of_catalog.messages,
        }),
        None => {
            let messages = files.messages.into_iter().chain(of_catalog.messages);
            let mut problems: Vec<_> = messages.map(Problem::Message).collect();
            if !diagnostics.is_empty() {
                problems.push(Problem::Policy { texts, diagnostics });
            }
            Err(problems)
        }
    }
}

/// The tables of a policy, or what there is too much of in it, shown at a rule with which it was.
pub(crate) fn compiled(effective: &Effective) -> Result<Tables, Problem> {
    let policy = &effective.policy;
    compile(policy, &Facts::default()).map_err(|error| {
        let text = error.to_string();
        let (message, help) = text.split_once("; ").unwrap_or((&text, ""));
        let place = error.rule.and_then(|id| policy.rule(id)).and_then(|rule| {
            let text = effective.texts.get(&*rule.file)?;
            Some((rule, span(text, rule.line, rule.column)))
        });
        let Some((rule, span)) = place else {
            return Problem::Message(text);
        };
        let diagnostic = Diagnostic {
            severity: Severity::Error,
            message: message.to_owned(),
            file: rule.file.to_string(),
            span,
            line: rule.line,
            column: rule.column,
            help: Some(help.to_owned()).filter(|help| !help.is_empty()),
        };
        Problem::Policy {
            texts: effective.texts.clone(),
            diagnostics: vec![diagnostic],
        }
    })
}

/// What of a text stands at a place, to the end of its line.
fn span(text: &str, line: usize, column: usize) -> Range<usize> {
    let start = match line.checked_sub(2) {
        None => 0,
        Some(before) => text
            .match_indices('\n')
            .nth(before)
            .map_or(text.len(), |(at, _)| at + 1),
    };
    let rest = &text[start..];
    let rest = rest.split('\n').next().unwrap_or(rest);
    let at = rest
        .char_indices()
        .nth(column - 1)
        .map_or(rest.len(), |(at, _)| at);
    start + at..start + rest.len()
}
