//! `graph check`: which findings are new, and how that is told to whoever waits for a build.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use blackstart_core::graph::Graph;
use blackstart_core::graph::findings::GraphFinding;
use blackstart_core::report::Severity;
use serde_json::{Value, json};

use crate::args::{FailOn, Format, GraphCheck};
use crate::output::Output;
use crate::plain::plain;
use crate::{FAILED, finish};

/// Something is new, or unread.
const NEW: u8 = 1;

/// The findings, with which of them are new.
struct Judged<'a> {
    graph: &'a Graph,
    found: Vec<(&'a GraphFinding, bool)>,
}

/// Compares, writes and prints.
pub(super) fn check(
    typed: &GraphCheck,
    graph: &Graph,
    found: &[GraphFinding],
    partial: bool,
    output: Output,
) -> u8 {
    if let (Some(path), true) = (&typed.baseline, typed.update_baseline) {
        if partial {
            output.error("the baseline is left as it is: findings of what could not be read would be missing from it");
            return NEW;
        }
        return match fs::write(path, written(found)) {
            Ok(()) => {
                let text = format!("{} findings are known from here on\n", found.len());
                finish(output, &text, 0)
            }
            Err(error) => cannot_write(path, &error, output),
        };
    }
    let known = match typed.baseline.as_deref().map(known).transpose() {
        Ok(known) => known.unwrap_or_default(),
        Err(why) => {
            output.error(&plain(&why));
            return FAILED;
        }
    };
    let least = match typed.fail_on {
        FailOn::Info => Severity::Info,
        FailOn::Warning => Severity::Warning,
        FailOn::Error => Severity::Error,
    };
    let is_new = |each: &GraphFinding| each.severity >= least && !known.contains(&each.id);
    let judged = Judged {
        graph,
        found: found.iter().map(|each| (each, is_new(each))).collect(),
    };
    for (path, text) in [
        (&typed.sarif, format!("{:#}\n", judged.sarif())),
        (&typed.markdown, judged.markdown()),
    ] {
        if let Some(path) = path
            && let Err(error) = fs::write(path, text)
        {
            return cannot_write(path, &error, output);
        }
    }
    let mut text = match typed.format {
        Format::Human => judged.human(output),
        Format::Json => format!("{:#}\n", judged.document(partial)),
    };
    if typed.annotations {
        text.push_str(&judged.annotations());
    }
    let new = judged.found.iter().any(|(_, new)| *new);
    finish(output, &text, if new || partial { NEW } else { 0 })
}

fn cannot_write(path: &Path, error: &std::io::Error, output: Output) -> u8 {
    output.error(&format!(
        "cannot write {}: {error}",
        plain(&path.to_string_lossy())
    ));
    FAILED
}

/// The ids in a baseline. A line begins with one; `#` begins a remark.
fn known(path: &Path) -> Result<BTreeSet<String>, String> {
    let text = fs::read_to_string(path).map_err(|error| {
        format!(
            "cannot read the baseline {}: {error}; make one with --update-baseline",
            path.display()
        )
    })?;
    let mut ids = BTreeSet::new();
    for (number, line) in text.lines().enumerate() {
        let Some(id) = line
            .split_whitespace()
            .next()
            .filter(|id| !id.starts_with('#'))
        else {
            continue;
        };
        if id.len() != 16 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!(
                "{}:{}: {id:?} is not the id of a finding; a line begins with 16 hexadecimal digits, or with #",
                path.display(),
                number + 1
            ));
        }
        ids.insert(id.to_owned());
    }
    Ok(ids)
}

fn written(found: &[GraphFinding]) -> String {
    let mut text = String::from(
        "# Findings of `blackstart graph check` that are known. Made by --update-baseline; a line may be\n# removed by hand once the finding is mended.\n",
    );
    let mut lines: Vec<_> = found
        .iter()
        .map(|each| format!("{}  {}  {}\n", each.id, each.kind, plain(&each.title)))
        .collect();
    lines.sort();
    lines.dedup();
    text.extend(lines);
    text
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "note",
    }
}

impl Judged<'_> {
    fn unknown(&self) -> impl Iterator<Item = &GraphFinding> {
        self.found
            .iter()
            .filter(|(_, new)| *new)
            .map(|(each, _)| *each)
    }

    fn human(&self, output: Output) -> String {
        let paint = output.out;
        let mut out = String::new();
        for each in self.unknown() {
            let severity = match each.severity {
                Severity::Error => paint.bad("error"),
                Severity::Warning => paint.doubtful("warning"),
                Severity::Info => "note".to_owned(),
            };
            let _ = writeln!(out, "{severity}: {}", plain(&each.title));
            let _ = writeln!(out, "  id    {}  ({})", each.id, each.kind);
            if let Some(place) = &each.place {
                let _ = writeln!(out, "  at    {}", plain(&place.to_string()));
            }
            if let Some(owner) = &each.owner {
                let _ = writeln!(out, "  owner {}", plain(owner));
            }
            let _ = writeln!(out, "  fix   {}", plain(&each.fix));
        }
        let new = self.unknown().count();
        let _ = writeln!(
            out,
            "{new} new of {} {}",
            self.found.len(),
            if self.found.len() == 1 {
                "finding"
            } else {
                "findings"
            }
        );
        out
    }

    fn document(&self, partial: bool) -> Value {
        let one = |(each, new): &(&GraphFinding, bool)| {
            json!({
                "id": each.id,
                "kind": each.kind,
                "severity": each.severity,
                "title": each.title,
                "owner": each.owner,
                "about": [self.graph.node(each.about.0).name, self.graph.node(each.about.1).name],
                "loop_kind": each.loop_kind.map(|kind| kind.as_str()),
                "runs": each.runs,
                "file": each.place.as_ref().map(|place| &*place.file),
                "line": each.place.as_ref().map(|place| place.line),
                "column": each.place.as_ref().map(|place| place.column),
                "fix": each.fix,
                "new": new,
            })
        };
        json!({
            "schema_version": 1,
            "partial": partial,
            "findings": self.found.iter().map(one).collect::<Vec<_>>(),
        })
    }

    /// SARIF 2.1.0 (OASIS). A finding of the baseline is `unchanged`.
    fn sarif(&self) -> Value {
        let kinds: BTreeSet<&str> = self.found.iter().map(|(each, _)| each.kind).collect();
        let rules: Vec<Value> = kinds.iter().map(|kind| json!({ "id": kind })).collect();
        let one = |(each, new): &(&GraphFinding, bool)| {
            let mut result = json!({
                "ruleId": each.kind,
                "level": word(each.severity),
                "message": { "text": format!("{}. {}", each.title, each.fix) },
                "partialFingerprints": { "blackstart/v1": each.id },
                "baselineState": if *new { "new" } else { "unchanged" },
            });
            if let Some(place) = &each.place {
                result["locations"] = json!([{
                    "physicalLocation": {
                        "artifactLocation": { "uri": uri(&place.file) },
                        "region": { "startLine": place.line, "startColumn": place.column },
                    }
                }]);
            }
            result
        };
        json!({
            "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
            "version": "2.1.0",
            "runs": [{
                "tool": { "driver": {
                    "name": "blackstart",
                    "version": env!("CARGO_PKG_VERSION"),
                    "rules": rules,
                } },
                "columnKind": "unicodeCodePoints",
                "results": self.found.iter().map(one).collect::<Vec<_>>(),
            }],
        })
    }

    fn markdown(&self) -> String {
        let mut out = format!(
            "## Blackstart: {} new of {} findings\n\n",
            self.unknown().count(),
            self.found.len()
        );
        if self.found.is_empty() {
            out.push_str("No circle, and nothing else to look at.\n");
            return out;
        }
        out.push_str("| | severity | finding | owner | fix |\n|---|---|---|---|---|\n");
        for (each, new) in &self.found {
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} |",
                if *new { "**new**" } else { "" },
                word(each.severity),
                markdown(&each.title),
                markdown(each.owner.as_deref().unwrap_or("")),
                markdown(&each.fix)
            );
        }
        out
    }

    /// Workflow commands of GitHub Actions, for what is new.
    fn annotations(&self) -> String {
        let mut out = String::new();
        for each in self.unknown() {
            let level = match each.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
                Severity::Info => "notice",
            };
            let mut properties = vec![format!("title={}", property(each.kind))];
            if let Some(place) = &each.place {
                properties.push(format!("file={}", property(&place.file)));
                properties.push(format!("line={}", place.line));
                properties.push(format!("col={}", place.column));
            }
            let _ = writeln!(
                out,
                "::{level} {}::{}",
                properties.join(","),
                data(&format!("{}. {}", each.title, each.fix))
            );
        }
        out
    }
}

/// A path as a URI reference (RFC 3986).
fn uri(path: &str) -> String {
    path.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

/// Text in a cell of a table: no markup, no link, no end of the cell.
fn markdown(text: &str) -> String {
    plain(text)
        .chars()
        .map(|c| match c {
            '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '(' | ')' | '#' | '+' | '!' | '|'
            | '~' => format!("\\{c}"),
            '<' => "&lt;".to_owned(),
            '>' => "&gt;".to_owned(),
            '&' => "&amp;".to_owned(),
            '@' => "&#64;".to_owned(),
            c => c.to_string(),
        })
        .collect()
}

/// The message of a workflow command.
fn data(text: &str) -> String {
    text.replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

/// A property of a workflow command.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_stay_texts() {
        assert_eq!(markdown("<b>|[x](y)@z"), "&lt;b&gt;\\|\\[x\\]\\(y\\)&#64;z");
        assert_eq!(property("a:b,c%\n"), "a%3Ab%2Cc%25%0A");
        assert_eq!(uri("a b/ü.yaml"), "a%20b/%C3%BC.yaml");
    }

    #[test]
    fn a_baseline_says_what_is_wrong_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b");
        fs::write(&path, "# known\n0123456789abcdef  loop  x\n\nnot-an-id\n").unwrap();
        let why = known(&path).unwrap_err();
        assert!(why.contains("b:4: \"not-an-id\" is not the id"), "{why}");
        fs::write(&path, "0123456789abcdef  loop  x\n").unwrap();
        assert_eq!(known(&path).unwrap().len(), 1);
    }
}
