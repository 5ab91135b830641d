//! What others are told: what is news, and what is sent, byte by byte.

use blackstart_core::notify::{
    FORGOTTEN_AFTER, Form, Memory, SHORT, Tally, Target, Told, alertmanager, journal, lines, logs,
    short_line, slack, traces, webhook,
};
use blackstart_core::report::{Guarded, Report};
use serde_json::json;
use std::path::Path;

/// A run with a refusal that was made twice, and a mere remark.
fn report() -> Report {
    let time = |second: u32| format!("2026-11-28T12:00:{second:02}.000000Z");
    let flow = |verdict: &str, attempts: u64, at: &str| {
        json!({
            "subject": 1, "name": "api.github.com", "address": at, "port": 443, "protocol": "tcp",
            "verdict": verdict, "rule": "deny .github.com", "attempts": attempts, "outcome": "refused", "bytes_sent": 0,
            "first_seen": time(1), "last_seen": time(1), "attribution": "exact"
        })
    };
    serde_json::from_value(json!({
        "schema_version": 1,
        "run": {
            "id": "0193f8c2-0000-7000-8000-000000000001", "service": "mysql", "owner": "team-db",
            "command": ["./deploy.sh"], "host": "db1", "mode": "enforce", "policy": null,
            "started": time(0), "ended": time(9), "exit_code": 120,
            "limits": {}, "usage": { "wall_seconds": 9.0 }, "kernel": { "release": "6.12", "features": [] }, "guarded": "yes"
        },
        "subjects": [{
            "id": 1, "pid": 101, "parent": null, "exe": "/usr/bin/curl", "argv": ["curl"], "argv_truncated": false,
            "started": time(0), "ended": time(9), "exit": 7
        }],
        "names": [{
            "name": "api.github.com", "type": "A", "subject": 1, "verdict": "deny", "rule": "deny .github.com", "queries": 2,
            "first_seen": time(1), "last_seen": time(1), "addresses": [], "chain": []
        }],
        "flows": [flow("deny", 3, "10.1.0.1"), flow("would_deny", 4, "10.1.0.2"), flow("allow", 5, "10.1.0.3")],
        "delegates": [],
        "findings": [
            {
                "id": "denied-1", "kind": "denied_dependency", "severity": "error",
                "title": "curl was refused api.github.com <!channel> `x`", "owner": null, "command": ["curl", "https://api.github.com"],
                "subjects": [1], "rule": "deny .github.com", "reason": "it is served by this database",
                "fix": "use the mirror & wait", "reaction": "fail"
            },
            {
                "id": "leftover-1", "kind": "leftover", "severity": "info", "title": "a process outlived the command",
                "owner": "team-os", "command": null, "subjects": [], "rule": null, "reason": null, "fix": null
            }
        ],
        "coverage": {
            "attempts": 14, "recorded": 14, "lost": 0, "attributed": 14, "unsupervised_seconds": 0.0,
            "gaps": [{ "kind": "names", "detail": "x", "count": 1 }, { "kind": "unseen_lookups", "detail": "y", "count": 0 }]
        }
    }))
    .unwrap()
}

fn target(text: &str) -> Target {
    Target::parse(text, Path::new("/")).unwrap()
}

fn told() -> Told {
    Told::of(&report()).to(&target("journald"), &mut Memory::default())
}

#[test]
fn a_run_is_told_with_its_sums() {
    let told = Told::of(&report());
    assert_eq!((told.run.refused, told.run.would_refuse), (5, 4));
    // What no run of this version sees is no news.
    assert_eq!(told.run.gaps, ["names"]);
    // Nobody owns it by name: whoever owns what is deployed.
    assert_eq!(told.findings[0].owner.as_deref(), Some("team-db"));
    assert_eq!(told.findings[1].owner.as_deref(), Some("team-os"));
}

#[test]
fn a_finding_is_news_once_for_each_target() {
    let mut memory = Memory::default();
    let (one, other) = (
        target("slack:https://a.example/x"),
        target("slack:https://a.example/y"),
    );
    let mut report = report();
    let news = |report: &Report, target: &Target, memory: &mut Memory| -> Vec<bool> {
        let told = Told::of(report).to(target, memory);
        told.findings.iter().map(|finding| finding.new).collect()
    };
    assert_eq!(news(&report, &one, &mut memory), [true, true]);
    assert_eq!(news(&report, &one, &mut memory), [false, false]);
    assert_eq!(news(&report, &other, &mut memory), [true, true]);
    // Of another deployment it is another one.
    report.run.service = Some("vault".to_owned());
    assert_eq!(news(&report, &one, &mut memory), [true, true]);
    // It got worse, or is somebody else's.
    report.findings[1].severity = blackstart_core::report::Severity::Warning;
    assert_eq!(news(&report, &one, &mut memory), [false, true]);
    report.findings[0].owner = Some("team-web".to_owned());
    assert_eq!(news(&report, &one, &mut memory), [true, false]);
    // It comes back after a while; the memory lets go of what does not.
    let kept: Memory = serde_json::from_str(&serde_json::to_string(&memory).unwrap()).unwrap();
    assert_eq!(kept, memory);
    let met = Told::of(&report).run.moment();
    memory.forget(met + FORGOTTEN_AFTER - 1);
    assert_eq!(kept, memory);
    report.run.ended = Some("2026-12-05T12:00:09.000000Z".to_owned());
    assert_eq!(news(&report, &one, &mut memory), [true, true]);
    memory.forget(met + 3 * FORGOTTEN_AFTER);
    assert_eq!(memory, Memory::default());
}

#[test]
fn people_are_not_called_for_a_remark_or_for_nothing() {
    for (alert, count) in [
        (Form::Webhook, 2),
        (Form::Slack, 1),
        (Form::Alertmanager, 1),
    ] {
        assert_eq!(told().alerting(alert, false).findings.len(), count);
        let known = Told::of(&report());
        assert_eq!(known.clone().alerting(alert, true).findings.len(), count);
        let nothing = known.alerting(alert, false);
        assert!(webhook(&nothing).is_none() && slack(&nothing).is_none());
        assert!(alertmanager(&nothing).is_none());
    }
}

#[test]
fn what_is_sent() {
    let told = told();
    insta::assert_json_snapshot!("webhook", webhook(&told));
    insta::assert_json_snapshot!("slack", slack(&told));
    insta::assert_json_snapshot!("alertmanager", alertmanager(&told));
    insta::assert_json_snapshot!("traces", traces(&report(), &told));
    insta::assert_json_snapshot!("logs", logs(&told));
    insta::assert_snapshot!("lines", lines(&told).concat());
    let entries: Vec<String> = journal(&told)
        .iter()
        .map(|entry| entry.escape_ascii().to_string())
        .collect();
    insta::assert_snapshot!("journal", entries.join("\n"));
}

#[test]
fn texts_of_strangers_call_nobody_and_are_cut() {
    let mut report = report();
    report.findings[0].title = format!("<@U1> <https://x.example|here> {}", "ä".repeat(100_000));
    report.findings[0].reason = Some("ö".repeat(300_000));
    let told = Told::of(&report);
    let text = slack(&told).unwrap()["text"].as_str().unwrap().to_owned();
    assert!(
        !text.contains('<') && text.len() < 4000 && text.contains('…'),
        "{text}"
    );
    // A datagram holds some 200 KiB.
    for entry in journal(&told) {
        assert!(entry.len() < 100_000, "{}", entry.len());
    }
    assert!(lines(&told)[0].len() > SHORT);
    for at in 0..3 {
        let line = short_line(&told, at);
        assert!(line.len() <= SHORT && line.ends_with("}\n"), "{line}");
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["truncated"], true);
    }
}

#[test]
fn a_run_of_which_nothing_was_seen_looks_well_to_nobody() {
    let told = |guarded, attempts| {
        let mut report = report();
        report.run.exit_code = Some(0);
        report.run.guarded = guarded;
        (report.coverage.attempts, report.coverage.recorded) = (attempts, attempts);
        report
    };
    let sums = |report: &Report| {
        let mut tally = Tally::default();
        tally.add(&Told::of(report));
        tally.services.remove("mysql").unwrap()
    };
    let status = |report: &Report| {
        let trace = traces(report, &Told::of(report));
        let root = &trace["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
        root["status"]["code"].as_u64().unwrap()
    };
    let (yes, partly, no) = (
        told(Guarded::Yes, 0),
        told(Guarded::Partly, 0),
        told(Guarded::No, 0),
    );
    assert_eq!([&yes, &partly, &no].map(status), [1, 0, 0]);
    let outcomes = |it: &Report| (sums(it).succeeded, sums(it).unguarded);
    assert_eq!([&yes, &partly, &no].map(outcomes), [(1, 0), (1, 0), (0, 1)]);
    let coverage = |it: &Report| sums(it).last_coverage();
    assert_eq!(
        [&yes, &partly, &no].map(coverage),
        [Some(1.0), None, Some(0.0)]
    );
    assert_eq!(coverage(&told(Guarded::Partly, 4)), Some(1.0));
    // What an earlier version has written says nothing of it.
    let before: Tally =
        serde_json::from_value(json!({"services": {"mysql": {"succeeded": 1}}})).unwrap();
    assert_eq!(before.services["mysql"].last_coverage(), Some(1.0));
}

#[test]
fn runs_are_summed_up_by_service() {
    let mut tally = Tally::default();
    let told = told();
    tally.add(&told);
    tally.add(&told);
    let sums = &tally.services["mysql"];
    assert_eq!(
        (sums.gated, sums.refused, sums.findings["leftover"]),
        (2, 10, 2)
    );
    assert_eq!(sums.last_findings, [1, 0, 1]);
    // No label grows without end.
    for n in 0..2000 {
        let mut told = told.clone();
        told.run.service = Some(format!("s{n}"));
        tally.add(&told);
    }
    assert!(tally.services.len() <= 1001);
    assert_eq!(tally.services["other"].gated, 2000 - 999);
}
