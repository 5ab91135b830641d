//! What is wrong with a policy or a catalog, shown at the place in its text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};
use blackstart_core::policy::{Diagnostic, Severity};

use crate::plain::{Paint, plain};

/// The text of each file, by the name that its diagnostics have.
pub(crate) type Texts = BTreeMap<String, String>;

/// No more are shown: nobody reads on, and a program asks for the document.
const SHOWN: usize = 50;
/// Of a span over more lines, the first is shown.
const LINES: usize = 20;
/// Of a longer line, what lies around the place.
const BYTES: usize = 400;

/// The worst of them, in their order, each with its line of its file's text.
pub(crate) fn human(diagnostics: &[Diagnostic], texts: &Texts, paint: Paint) -> String {
    let renderer = match paint {
        Paint::Ansi => Renderer::styled(),
        Paint::None => Renderer::plain(),
    }
    .decor_style(DecorStyle::Ascii);
    let mut out = String::new();
    let is_error = |it: &&Diagnostic| it.severity == Severity::Error;
    let errors = diagnostics.iter().filter(is_error).count();
    // No error is left out for a warning.
    let mut left = (errors.min(SHOWN), SHOWN.saturating_sub(errors));
    for diagnostic in diagnostics {
        let (level, left) = match diagnostic.severity {
            Severity::Error => (Level::ERROR, &mut left.0),
            Severity::Warning => (Level::WARNING, &mut left.1),
        };
        if *left == 0 {
            continue;
        }
        *left -= 1;
        let text = texts.get(&diagnostic.file).map_or("", String::as_str);
        let file = plain(&diagnostic.file);
        let window = Window::of(text, diagnostic);
        let title = level.primary_title(plain(&diagnostic.message));
        let snippet = Snippet::source(window.text)
            .line_start(diagnostic.line)
            .annotation(AnnotationKind::Primary.span(window.span));
        let mut group = match window.whole {
            true => title.element(snippet.path(&file)),
            // Its own count of columns begins where the line was cut.
            false => {
                let place = Origin::path(&file).line(diagnostic.line);
                title
                    .element(place.char_column(diagnostic.column))
                    .element(snippet)
            }
        };
        if let Some(help) = &diagnostic.help {
            group = group.element(Level::HELP.message(plain(help)));
        }
        out.push_str(&renderer.render(&[group]));
        out.push_str("\n\n");
    }
    if let Some(more) = diagnostics.len().checked_sub(SHOWN + 1) {
        let rest = errors.saturating_sub(SHOWN);
        let more = more + 1;
        let _ = writeln!(out, "and {more} more ({rest} of them errors)\n");
    }
    out
}

/// As much of a text as shows a place. The renderer looks at all that it is given, for each place anew.
struct Window<'t> {
    text: &'t str,
    span: Range<usize>,
    /// It begins where its line does.
    whole: bool,
}

impl<'t> Window<'t> {
    fn of(text: &'t str, diagnostic: &Diagnostic) -> Self {
        let (start, end) = within(text, diagnostic.span.start, diagnostic.span.end);
        let line = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let after = |from: usize| text[from..].find('\n').map_or(text.len(), |at| from + at);
        let first = after(start);
        let lines = text[start..end]
            .bytes()
            .filter(|byte| *byte == b'\n')
            .take(LINES)
            .count();
        let last = match lines {
            LINES => first,
            _ => after(end).max(first),
        };
        let is_long = last - line > BYTES * LINES || first - line > BYTES;
        let (from, to) = match is_long {
            false => (line, last),
            true => (
                line.max(start.saturating_sub(BYTES / 2)),
                first.min(start + BYTES / 2),
            ),
        };
        let (from, to) = within(text, from, to);
        Self {
            text: &text[from..to],
            span: start - from..end.min(to) - from,
            whole: from == line,
        }
    }
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

    /// A diagnostic at each of these places.
    fn at(text: &str, severity: Severity, spans: &[Range<usize>]) -> Vec<Diagnostic> {
        let at = |span: &Range<usize>| Diagnostic {
            severity,
            message: format!("wrong at {}", span.start),
            file: "c.yaml".to_owned(),
            span: span.clone(),
            line: 1 + text[..span.start].matches('\n').count(),
            column: 1 + text[..span.start]
                .chars()
                .rev()
                .take_while(|c| *c != '\n')
                .count(),
            help: None,
        };
        spans.iter().map(at).collect()
    }

    #[test]
    fn the_worst_are_shown_and_the_rest_is_counted() {
        let text = "a: b\n".repeat(200);
        let spans: Vec<_> = (0..200).map(|line| line * 5..line * 5 + 1).collect();
        let shown = |errors: usize| {
            let mut all = at(&text, Severity::Warning, &spans[errors..]);
            all.extend(at(&text, Severity::Error, &spans[..errors]));
            let shown = human(&all, &texts("c.yaml", &text), Paint::None);
            let count = |word: &str| shown.matches(word).count();
            (
                count("error: "),
                count("warning: "),
                shown.lines().rev().nth(1).unwrap().to_owned(),
            )
        };
        assert_eq!(
            shown(0),
            (0, 50, "and 150 more (0 of them errors)".to_owned())
        );
        assert_eq!(
            shown(20),
            (20, 30, "and 150 more (0 of them errors)".to_owned())
        );
        assert_eq!(
            shown(70),
            (50, 0, "and 150 more (20 of them errors)".to_owned())
        );
        let few = at(&text, Severity::Error, &spans[..50]);
        let few = human(&few, &texts("c.yaml", &text), Paint::None);
        assert!(
            few.ends_with(" --> c.yaml:50:1\n   |\n50 | a: b\n   | ^\n\n"),
            "{few}"
        );
    }

    #[test]
    fn only_what_lies_around_a_place_is_shown() {
        let show = |text: &str, span: Range<usize>| {
            human(
                &at(text, Severity::Error, &[span]),
                &texts("c.yaml", text),
                Paint::None,
            )
        };
        // A line as long as a file, with characters of several bytes.
        let long = format!("x: y\n{}KEY{}", "ü".repeat(500_000), "ö".repeat(500_000));
        let start = 5 + 1_000_000;
        let shown = show(&long, start..start + 3);
        assert!(shown.contains("--> c.yaml:2:500001"), "{shown}");
        assert!(shown.contains("üKEYö"), "{shown}");
        assert!(shown.contains("^^^") && shown.len() < 4_000, "{shown}");
        // A span over more lines than anybody reads, and one over few.
        let many = "a: b\n".repeat(100_000);
        let shown = show(&many, 10..400_000);
        assert!(shown.contains("3 | a: b") && shown.len() < 400, "{shown}");
        let shown = show(&many, 10..23);
        assert!(
            shown.contains("3 | / a: b") && shown.contains("5 | | a: b"),
            "{shown}"
        );
        // At the very end.
        let shown = show("a: b\n", 5..5);
        assert!(shown.contains("--> c.yaml:2:1"), "{shown}");
    }
}
