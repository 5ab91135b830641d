//! The `limits` of a policy: read, or refused at their place; and what a report says came of them.

use std::time::Duration;

use blackstart_core::policy::{Cpus, Limits, Parsed, parse};

const HEAD: &str = "apiVersion: blackstart.dev/v1\nkind: Policy\n";

fn complaints(text: &str) -> String {
    let diagnostics = match parse(text, "p.yaml") {
        Ok(Parsed { warnings, .. }) => warnings,
        Err(diagnostics) => diagnostics,
    };
    diagnostics
        .iter()
        .map(|d| format!("{d}\n    at {:?}\n", &text[d.span.clone()]))
        .collect()
}

fn limits(text: &str) -> Limits {
    match parse(&format!("{HEAD}{text}"), "p.yaml") {
        Ok(Parsed { policy, .. }) => policy.limits,
        Err(_) => panic!("{}", complaints(&format!("{HEAD}{text}"))),
    }
}

#[test]
fn all_four_are_read() {
    let all = Limits {
        memory: Some(2 << 30),
        cpu: Some(Cpus::from_thousandths(1500)),
        pids: Some(512),
        time: Some(Duration::from_secs(1800)),
    };
    assert_eq!(
        limits("limits: { memory: 2GiB, cpu: 1.5, pids: 512, time: 30m }\n"),
        all
    );
    assert_eq!(
        limits("limits:\n  memory: \"2GiB\"\n  cpu: 1.5\n  pids: 512\n  time: 30m\n"),
        all
    );
    assert_eq!(limits(""), Limits::default());
    assert_eq!(limits("limits: {}\n"), Limits::default());
    let one = Limits {
        pids: Some(1),
        ..Limits::default()
    };
    assert_eq!(limits("limits: { pids: 1 }\n"), one);
}

#[test]
fn everything_wrong_is_told_at_its_place() {
    let text = format!(
        "{HEAD}limits:\n  memroy: 2GiB\n  memory: 2GB\n  memory: 1GiB\n  cpu: 150%\n  pids: 0\n  time: 90\n  disk: 1TiB\n  [a]: 1\n"
    );
    let more = format!("{HEAD}limits:\n  memory:\n  cpu: true\n  pids: [1]\n  time: {{h: 1}}\n");
    let shapes = ["limits: 2GiB\n", "limits:\n", "limits: [memory]\n"];
    let shapes = shapes.map(|limits| complaints(&format!("{HEAD}{limits}")));
    insta::assert_snapshot!([complaints(&text), complaints(&more), shapes.concat()].join("\n"));
}
