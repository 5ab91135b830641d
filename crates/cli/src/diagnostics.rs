//! What is wrong with a policy or a catalog, shown at the place in its text.

use std::collections::BTreeMap;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use blackstart_core::policy::{Diagnostic, Severity};

use crate::plain::{Paint, plain};

/// The text of each file, by the name that its diagnostics have.
pub(crate) type Texts = BTreeMap<String, String>;

/// All of them, each with its line of its file's text, one after the other.
pub(crate) fn human(diagnostics: &[Diagnostic], texts: &Texts, paint: Paint) -> String {
    let renderer = match paint {
        Paint::Ansi => Renderer::styled(),
        Paint::None => Renderer::plain(),
    }
    .decor_style(DecorStyle::Ascii);
    let mut out = String::new();
    for diagnostic in diagnostics {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let text = texts.get(&diagnostic.file).map_or("", String::as_str);
        let file = plain(&diagnostic.file);
        let (start, end) = within(text, diagnostic.span.start, diagnostic.span.end);
        let snippet = Snippet::source(text)
            .path(&file)
            .annotation(AnnotationKind::Primary.span(start..end));
        let mut group = level
            .primary_title(plain(&diagnostic.message))
            .element(snippet);
        if let Some(help) = &diagnostic.help {
            group = group.element(Level::HELP.message(plain(help)));
        }
        out.push_str(&renderer.render(&[group]));
        out.push_str("\n\n");
    }
    out
}

/// The span, moved to where `text` can be cut.
fn within(text: &str, start: usize, end: usize) -> (usize, usize) {
    let is_boundary = |at: &usize| text.is_char_boundary(*at);
    let start = (0..=start.min(text.len()))
        .rev()
        .find(is_boundary)
        .unwrap_or(0);
    let end = (end.max(start)..text.len())
        .find(is_boundary)
        .unwrap_or(text.len());
    (start, end)
}

#[cfg(test)]
mod tests {
    use blackstart_core::policy;

    use super::*;

    const WRONG: &str = "\
apiVersion: blackstart.dev/v1
kind: Policy
mode: enforced
defalt: allow
rules:
  - deny: .github.com
    raeson: served by this database
  - allow: 10.20.0.0/99
";

    fn texts(file: &str, text: &str) -> Texts {
        Texts::from([(file.to_owned(), text.to_owned())])
    }

    #[test]
    fn everything_wrong_is_shown_at_once_and_in_place() {
        let diagnostics = policy::parse(WRONG, "deploy.yaml").unwrap_err();
        insta::assert_snapshot!(human(
            &diagnostics,
            &texts("deploy.yaml", WRONG),
            Paint::None
        ));
    }

    #[test]
    fn a_program_gets_the_same() {
        let diagnostics = policy::parse(WRONG, "deploy.yaml").unwrap_err();
        let findings = crate::answers::Finding::all(&diagnostics);
        insta::assert_json_snapshot!(serde_json::to_value(findings).unwrap());
    }

    #[test]
    fn a_span_outside_the_text_is_moved_inside() {
        assert_eq!(within("aü", 2, 2), (1, 3));
        assert_eq!(within("aü", 9, 12), (3, 3));
        let odd = Diagnostic {
            severity: Severity::Error,
            message: "odd\x1b[31m".to_owned(),
            file: "p.yaml".to_owned(),
            span: 9..12,
            line: 1,
            column: 1,
            help: None,
        };
        let shown = human(&[odd], &texts("p.yaml", "aü"), Paint::None);
        assert!(shown.contains("odd\\x1b[31m"), "{shown}");
    }
}
