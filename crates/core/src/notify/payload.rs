//! What is sent, byte by byte.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Told, ToldFinding, ToldRun, VERSION};
use crate::history::time_text;
use crate::report::Severity;

/// A line of a pipe that is no longer than this is written as a whole or not at all (PIPE_BUF).
pub const SHORT: usize = 4096;
/// A journal takes larger fields only through a file; and nobody reads more.
const LONGEST_FIELD: usize = 16 * 1024;
/// More findings in one message are not read.
const SHOWN: usize = 20;
/// Longer texts are cut: chat systems refuse whole messages for one of them.
const LONGEST_TEXT: usize = 1000;
/// Alertmanager takes an alert for resolved when nobody repeats it. We do not: it stands for a day.
const STANDS: crate::history::Micros = 86_400_000_000;

/// JSON lines: one for each finding, and one for the run when it has ended.
pub fn lines(told: &Told) -> Vec<String> {
    let of_findings = told.findings.iter().map(|finding| {
        line(
            "finding",
            &json!(mention(&told.run)),
            Some(&json!(finding)),
            false,
        )
    });
    let of_run = || line("run", &json!(told.run), None, false);
    let of_run = (!told.run.goes_on()).then(of_run);
    of_findings.chain(of_run).collect()
}

/// The same lines, none longer than [`SHORT`]: of those that would be, only who and what.
pub fn short_line(told: &Told, at: usize) -> String {
    match told.findings.get(at) {
        Some(finding) => {
            let short = json!({
                "id": finding.id, "kind": finding.kind, "severity": finding.severity,
                "title": cut(&finding.title, LONGEST_TEXT), "owner": finding.owner.as_deref().map(|it| cut(it, 200)), "new": finding.new,
            });
            line("finding", &mention(&told.run), Some(&short), true)
        }
        None => {
            let mut short = mention(&told.run);
            short["exit_code"] = json!(told.run.exit_code);
            line("run", &short, None, true)
        }
    }
}

fn line(kind: &str, run: &Value, finding: Option<&Value>, truncated: bool) -> String {
    let mut line = json!({"schema_version": VERSION, "type": kind, "run": run});
    if let Some(finding) = finding {
        line["finding"] = finding.clone();
    }
    if truncated {
        line["truncated"] = json!(true);
    }
    format!("{line}\n")
}

/// Which run it was.
fn mention(run: &ToldRun) -> Value {
    json!({
        "id": run.id, "service": run.service.as_deref().map(|it| cut(it, 200)), "host": cut(&run.host, 200),
        "ended": run.ended,
    })
}

/// The document of a webhook; none if there is nothing to tell.
pub fn webhook(told: &Told) -> Option<Value> {
    (!told.findings.is_empty()).then(|| {
        json!({
            "schema_version": VERSION, "type": "findings", "run": told.run, "findings": told.findings,
        })
    })
}

/// A message for people; none if there is nothing to tell.
pub fn slack(told: &Told) -> Option<Value> {
    if told.findings.is_empty() {
        return None;
    }
    let run = &told.run;
    let mut text = format!(
        "*{}* on {}: {} in run `{}`",
        marked(run.subject()),
        marked(&run.host),
        match told.findings.len() {
            1 => "1 finding".to_owned(),
            many => format!("{many} findings"),
        },
        marked(&run.id),
    );
    for finding in told.findings.iter().take(SHOWN) {
        let sign = match finding.severity {
            Severity::Error => ":red_circle:",
            Severity::Warning => ":large_yellow_circle:",
            Severity::Info => ":white_circle:",
        };
        // Writing to a string never fails.
        let _ = write!(text, "\n{sign} {}", marked(&finding.title));
        if let Some(owner) = &finding.owner {
            let _ = write!(text, " (owner: {})", marked(owner));
        }
        if let Some(fix) = &finding.fix {
            let _ = write!(text, "\n      fix: {}", marked(fix));
        }
    }
    if let Some(more) = told
        .findings
        .len()
        .checked_sub(SHOWN)
        .filter(|more| *more > 0)
    {
        let _ = write!(text, "\nand {more} more: `blackstart runs show {}`", run.id);
    }
    Some(json!({ "text": text }))
}

/// Alerts as Alertmanager takes them; none if there is nothing to tell.
pub fn alertmanager(told: &Told) -> Option<Value> {
    let run = &told.run;
    let ended = run.moment();
    let alerts: Vec<Value> = told
        .findings
        .iter()
        .map(|finding| {
            let mut labels = json!({
                "alertname": "BlackstartFinding",
                "finding": finding.id, "kind": finding.kind, "severity": word(finding.severity),
            });
            // What an alert is told apart by: the host is not, since the same finding elsewhere is the same alert.
            for (label, value) in [("service", &run.service), ("owner", &finding.owner)] {
                if let Some(value) = value {
                    labels[label] = json!(value);
                }
            }
            let mut annotations = json!({
                "summary": finding.title, "host": run.host, "run": run.id,
            });
            let command = finding.command.as_ref().map(|words| words.join(" "));
            for (name, value) in [
                ("command", &command),
                ("rule", &finding.rule),
                ("reason", &finding.reason),
                ("fix", &finding.fix),
            ] {
                if let Some(value) = value {
                    annotations[name] = json!(cut(value, LONGEST_TEXT));
                }
            }
            json!({
                "labels": labels, "annotations": annotations,
                "startsAt": time_text(ended), "endsAt": time_text(ended.saturating_add(STANDS)),
            })
        })
        .collect();
    (!alerts.is_empty()).then_some(Value::Array(alerts))
}

/// Entries for the journal, in its native form: one for each finding, and one for the run when it has ended.
pub fn journal(told: &Told) -> Vec<Vec<u8>> {
    let run = &told.run;
    let about_run = |entry: &mut Vec<u8>| {
        field(entry, "SYSLOG_IDENTIFIER", "blackstart");
        field(entry, "BLACKSTART_RUN", &run.id);
        if let Some(service) = &run.service {
            field(entry, "BLACKSTART_SERVICE", service);
        }
    };
    let of_findings = told.findings.iter().map(|finding| {
        let mut entry = Vec::new();
        field(&mut entry, "MESSAGE", &finding.title);
        field(&mut entry, "PRIORITY", priority(finding.severity));
        about_run(&mut entry);
        about_finding(&mut entry, finding);
        entry
    });
    let of_run = || {
        let mut entry = Vec::new();
        field(&mut entry, "MESSAGE", &sentence(told));
        let worst = told.findings.iter().map(|finding| finding.severity).max();
        field(
            &mut entry,
            "PRIORITY",
            priority(worst.unwrap_or(Severity::Info)),
        );
        about_run(&mut entry);
        if let Some(code) = run.exit_code {
            field(&mut entry, "BLACKSTART_EXIT_CODE", &code.to_string());
        }
        field(&mut entry, "BLACKSTART_REFUSED", &run.refused.to_string());
        field(
            &mut entry,
            "BLACKSTART_WOULD_REFUSE",
            &run.would_refuse.to_string(),
        );
        field(
            &mut entry,
            "BLACKSTART_FINDINGS",
            &told.findings.len().to_string(),
        );
        entry
    };
    let of_run = (!run.goes_on()).then(of_run);
    of_findings.chain(of_run).collect()
}

fn about_finding(entry: &mut Vec<u8>, finding: &ToldFinding) {
    field(entry, "BLACKSTART_FINDING", &finding.id);
    field(entry, "BLACKSTART_KIND", &finding.kind);
    field(entry, "BLACKSTART_SEVERITY", word(finding.severity));
    field(
        entry,
        "BLACKSTART_NEW",
        if finding.new { "yes" } else { "no" },
    );
    for (name, value) in [
        ("BLACKSTART_OWNER", &finding.owner),
        ("BLACKSTART_RULE", &finding.rule),
        ("BLACKSTART_REASON", &finding.reason),
        ("BLACKSTART_FIX", &finding.fix),
    ] {
        if let Some(value) = value {
            field(entry, name, value);
        }
    }
}

/// The run in one line.
fn sentence(told: &Told) -> String {
    let run = &told.run;
    let exit = match run.exit_code {
        Some(code) => format!("exited with {code}"),
        None => "ended unseen".to_owned(),
    };
    let findings = match told.findings.len() {
        0 => "no finding".to_owned(),
        1 => "1 finding".to_owned(),
        many => format!("{many} findings"),
    };
    format!("{} {exit}, {findings}", run.subject())
}

/// One field: its name and its value with their length before it, so that a value can have any bytes.
fn field(entry: &mut Vec<u8>, name: &str, value: &str) {
    let value = cut(value, LONGEST_FIELD);
    entry.extend_from_slice(name.as_bytes());
    entry.push(b'\n');
    entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

/// As syslog counts.
fn priority(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "3",
        Severity::Warning => "4",
        Severity::Info => "6",
    }
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "info",
    }
}

/// At most so many bytes, with a mark where something is gone.
fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let mut end = most.saturating_sub('…'.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

/// As text in a message: what comes from strangers makes no link and calls nobody.
fn marked(text: &str) -> String {
    let mut marked = String::with_capacity(text.len());
    for c in cut(text, LONGEST_TEXT).chars() {
        match c {
            '&' => marked.push_str("&amp;"),
            '<' => marked.push_str("&lt;"),
            '>' => marked.push_str("&gt;"),
            // Formatting, and `@channel` where a server still reads it in plain text.
            '`' => marked.push('\''),
            '@' => marked.push_str("@\u{200b}"),
            c if c.is_control() => marked.push(' '),
            c => marked.push(c),
        }
    }
    marked
}
