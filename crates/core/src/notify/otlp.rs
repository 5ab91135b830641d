//! OpenTelemetry's protocol in its JSON form: the run as a trace, its processes as spans, its findings as log records.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::{Told, ToldFinding};
use crate::history::{Micros, micros};
use crate::record::Verdict;
use crate::report::{Guarded, Parts, Severity, image_name};

/// A trace with more spans is read by nobody, and refused by some. The first processes stay: the last ones are the
/// most alike.
const MOST_SPANS: usize = 2000;
/// Refusals of one process.
const MOST_EVENTS: usize = 32;

/// The trace. Its id is the run's.
pub fn traces(report: &dyn Parts, told: &Told) -> Value {
    let run = &told.run;
    let trace = run.trace_id();
    let (began, ended) = (micros(&run.started), run.moment());
    let mut events = refusals(report);
    let mut left_out = 0u64;
    let mut spans = Vec::new();
    for subject in report.subjects() {
        if spans.len() == MOST_SPANS {
            left_out += 1;
            continue;
        }
        let mut attributes = vec![
            number("process.pid", u64::from(subject.pid)),
            text("process.executable.path", &subject.exe),
            json!({"key": "process.command_args", "value": {"arrayValue": {
                "values": subject.argv.iter().map(|word| json!({"stringValue": word})).collect::<Vec<_>>()
            }}}),
        ];
        if let Some(code) = subject.exit {
            attributes
                .push(json!({"key": "process.exit.code", "value": {"intValue": code.to_string()}}));
        }
        let until = subject.ended.as_deref().map_or(ended, micros);
        let failed = subject.exit.is_some_and(|code| code != 0);
        spans.push(json!({
            "traceId": trace, "spanId": span_id(subject.id),
            "parentSpanId": subject.parent.map_or_else(|| run.root_span(), span_id),
            "name": image_name(&subject.exe, &subject.argv), "kind": 1,
            "startTimeUnixNano": nanos(micros(&subject.started)), "endTimeUnixNano": nanos(until),
            "attributes": attributes, "events": events.remove(&subject.id).unwrap_or_default(),
            "status": {"code": if failed { 2 } else { 0 }},
        }));
    }
    let mut attributes = vec![
        text("blackstart.run", &run.id),
        text(
            "blackstart.guarded",
            match run.guarded {
                Guarded::Yes => "yes",
                Guarded::Partly => "partly",
                Guarded::No => "no",
            },
        ),
        json!({"key": "blackstart.refused", "value": {"intValue": run.refused.to_string()}}),
        number("blackstart.findings", told.findings.len() as u64),
    ];
    for (key, value) in [
        ("blackstart.service", &run.service),
        ("blackstart.owner", &run.owner),
    ] {
        attributes.extend(value.as_deref().map(|value| text(key, value)));
    }
    if let Some(code) = run.exit_code {
        attributes
            .push(json!({"key": "process.exit.code", "value": {"intValue": code.to_string()}}));
    }
    if left_out > 0 {
        attributes.push(number("blackstart.processes_left_out", left_out));
    }
    // Nobody can say that a run is well of which not everything was seen: it stays unset.
    let status = match (run.exit_code, run.guarded) {
        (Some(0), Guarded::Yes) => 1,
        (Some(0), _) => 0,
        _ => 2,
    };
    spans.insert(
        0,
        json!({
            "traceId": trace, "spanId": run.root_span(), "name": format!("run {}", run.subject()), "kind": 1,
            "startTimeUnixNano": nanos(began), "endTimeUnixNano": nanos(ended),
            "attributes": attributes, "status": {"code": status},
        }),
    );
    json!({"resourceSpans": [{
        "resource": resource(told), "scopeSpans": [{"scope": scope(), "spans": spans}],
    }]})
}

/// The findings; none if there is none.
pub fn logs(told: &Told) -> Option<Value> {
    let at = nanos(told.run.moment());
    let record = |finding: &ToldFinding| {
        let (severity, word) = match finding.severity {
            Severity::Info => (9, "INFO"),
            Severity::Warning => (13, "WARN"),
            Severity::Error => (17, "ERROR"),
        };
        let mut attributes = vec![
            text("blackstart.run", &told.run.id),
            text("blackstart.finding", &finding.id),
            text("blackstart.kind", &finding.kind),
            json!({"key": "blackstart.new", "value": {"boolValue": finding.new}}),
        ];
        for (key, value) in [
            ("blackstart.service", &told.run.service),
            ("blackstart.owner", &finding.owner),
            ("blackstart.rule", &finding.rule),
            ("blackstart.reason", &finding.reason),
            ("blackstart.fix", &finding.fix),
        ] {
            attributes.extend(value.as_deref().map(|value| text(key, value)));
        }
        json!({
            "timeUnixNano": at, "observedTimeUnixNano": at, "severityNumber": severity, "severityText": word,
            "body": {"stringValue": finding.title}, "attributes": attributes,
            "traceId": told.run.trace_id(), "spanId": told.run.root_span(),
        })
    };
    let records: Vec<Value> = told.findings.iter().map(record).collect();
    (!records.is_empty()).then(|| {
        json!({"resourceLogs": [{
            "resource": resource(told), "scopeLogs": [{"scope": scope(), "logRecords": records}],
        }]})
    })
}

/// What was refused, by subject.
fn refusals(report: &dyn Parts) -> HashMap<u64, Vec<Value>> {
    let mut events: HashMap<u64, Vec<Value>> = HashMap::new();
    let mut add = |subject: Option<u64>, verdict, at: &str, destination: String, rule: &str| {
        let name = match verdict {
            Verdict::Deny => "refused",
            Verdict::WouldDeny => "would be refused",
            _ => return,
        };
        let events = events.entry(subject.unwrap_or(0)).or_default();
        if events.len() < MOST_EVENTS {
            events.push(json!({
                "timeUnixNano": nanos(micros(at)), "name": name,
                "attributes": [text("blackstart.destination", &destination), text("blackstart.rule", rule)],
            }));
        }
    };
    for name in report.names() {
        add(
            name.subject,
            name.verdict,
            &name.first_seen,
            name.name.clone(),
            &name.rule,
        );
    }
    let told = report.told_by_another();
    for (flow, _) in report.flows().zip(told).filter(|(_, told)| !told) {
        let host = flow
            .name
            .clone()
            .unwrap_or_else(|| flow.address.to_string());
        add(
            flow.subject,
            flow.verdict,
            &flow.first_seen,
            format!("{host} port {}", flow.port),
            &flow.rule,
        );
    }
    events
}

impl super::ToldRun {
    /// 16 bytes: a run's id is as long.
    fn trace_id(&self) -> String {
        self.id.chars().filter(char::is_ascii_hexdigit).collect()
    }

    /// Its random half. Those of processes are small numbers.
    fn root_span(&self) -> String {
        let id = self.trace_id();
        id.get(id.len().saturating_sub(16)..)
            .unwrap_or_default()
            .to_owned()
    }
}

fn span_id(subject: u64) -> String {
    format!("{subject:016x}")
}

fn nanos(time: Micros) -> String {
    (i128::from(time) * 1000).to_string()
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

fn number(key: &str, value: u64) -> Value {
    json!({"key": key, "value": {"intValue": value.to_string()}})
}

fn resource(told: &Told) -> Value {
    json!({"attributes": [text("service.name", "blackstart"), text("host.name", &told.run.host)]})
}

fn scope() -> Value {
    json!({"name": "blackstart", "version": env!("CARGO_PKG_VERSION")})
}
