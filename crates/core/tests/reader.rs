//! The reader of policies under what people and accidents do to a file: real policies, cut up, doubled and mistyped.

use std::ops::Range;

use blackstart_core::catalog;
use blackstart_core::policy::{
    Day, Diagnostic, Document, Effect, Given, Layer, MAX_BYTES, Rank, Severity, alone, parse, read,
    resolve,
};
use blackstart_core::report::Mode;
use blackstart_core::tables::{Facts, compile};
use proptest::prelude::*;
use saphyr_parser::{Event, Parser};

const REAL: &[&str] = &[
    include_str!("../../../policies/allow-list-rehearsal.yaml"),
    include_str!("../../../policies/cloud-control-planes.yaml"),
    include_str!("../../../policies/encrypted-dns.yaml"),
    include_str!("../../../policies/stateful-host-deploy.yaml"),
    include_str!("../../../policies/update-checks.yaml"),
    EVERYTHING,
];

/// Every key of the language.
const EVERYTHING: &str = r#"apiVersion: blackstart.dev/v1
kind: Policy
service: mysql
mode: enforce
default: deny
include: [base.yaml]
protect: [github]
rules:
  - deny: .github.com
    process: ancestor:terraform
    mode: observe
    on_match: refuse EHOSTUNREACH
    reaction: fail
    reason: "it's what we repair"
    fix: >-
      use the
      mirror
  - {allow: "*:25", protocol: tcp}
  - deny: service:billing:443
  - deny: unix:/run/docker.sock
  - deny: "[fd00::/8]:22-23"
waivers:
  - for: "*.hub.example:443"
    process: terraform
    owner: team-db
    reason: until the mirror has providers
    expires: 2026-12-31
limits: { memory: 2GiB, cpu: 1.5, pids: 512, time: 30m }
tests:
  - { to: api.github.com:443, expect: deny }
  - { to: api.hub.example, address: 192.0.2.1, process: /bin/ssh, expect: waived, rule: default }
"#;

/// A guardrail, a file that [`EVERYTHING`] includes, and the catalog that both ask.
const GUARDRAIL: &str = "apiVersion: blackstart.dev/v1
kind: Policy
mode: enforce
default: deny
protect: [billing]
rules:
  - { deny: .github.com, final: true, reason: the host says so }
  - { allow: service:mirror, process: apt }
tests:
  - { to: api.github.com:443, expect: deny }
";
const INCLUDED: &str = "apiVersion: blackstart.dev/v1
kind: Policy
protect: [github]
rules:
  - allow: mirror.internal:443
  - { deny: service:billing, mode: observe }
waivers:
  - { for: service:mirror, owner: team-db, reason: not yet, expires: 2020-01-01 }
";
const CATALOG: &str = "apiVersion: blackstart.dev/v1
kind: Service
name: github
provides: [.github.com, \"140.82.112.0/20\"]
---
apiVersion: blackstart.dev/v1
kind: Service
name: billing
owner: team-billing
provides: [billing.internal:443, \"unix:/run/billing.sock\"]
needs: [github, { service: mirror, for: run }]
---
apiVersion: blackstart.dev/v1
kind: Service
name: mirror
provides: [mirror.internal]
";

/// What is put in: pieces of YAML, pieces of the language, and what is neither.
const PIECES: &[&str] = &[
    "*",
    "&a ",
    "*a",
    "!!str ",
    "- ",
    ": ",
    "{",
    "}",
    "[",
    "]",
    ",",
    "\"",
    "'",
    "#",
    "|\n",
    ">-\n",
    "? ",
    "<<: *a\n",
    "---\n",
    "...\n",
    "%YAML 1.2\n",
    "\t",
    "\r\n",
    "\n",
    " ",
    "  ",
    "\u{feff}",
    "\u{85}",
    "\u{2028}",
    "\u{0}",
    "é",
    "例",
    "~",
    "null",
    "true",
    "0",
    "-1",
    "1e999",
    "2026-02-30",
    "rules:\n",
    "  - deny: ",
    "  - allow: ",
    "waivers:\n",
    "tests:\n",
    "process: ancestor:",
    "final: true",
    "0.0.0.0/0",
    "::/0",
    "[::1]:",
    ":65536",
    ":0",
    "*.com",
    ".co.uk",
    "a..b",
    "unix:",
    "service:",
];

/// One thing that happens to a text; places are shares of its length.
#[derive(Debug, Clone)]
enum Accident {
    Cut(u16, u16),
    Double(u16, u16),
    Move(u16, u16, u16),
    Put(u16, usize),
    Truncate(u16),
    /// This line again, or none of it.
    Line(u16, bool),
}

fn accident() -> impl Strategy<Value = Accident> {
    let short = 0u16..2_000;
    prop_oneof![
        3 => (any::<u16>(), short.clone()).prop_map(|(at, length)| Accident::Cut(at, length)),
        1 => (any::<u16>(), short.clone()).prop_map(|(at, length)| Accident::Double(at, length)),
        1 => (any::<u16>(), short, any::<u16>()).prop_map(|(at, length, to)| Accident::Move(at, length, to)),
        6 => (any::<u16>(), 0..PIECES.len()).prop_map(|(at, piece)| Accident::Put(at, piece)),
        1 => any::<u16>().prop_map(Accident::Truncate),
        3 => (any::<u16>(), any::<bool>()).prop_map(|(at, again)| Accident::Line(at, again)),
    ]
}

/// The place in a text that is this share of it, where it can be cut.
fn place(text: &str, share: u16) -> usize {
    let at = text.len() * usize::from(share) / usize::from(u16::MAX);
    (0..=at)
        .rev()
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(0)
}

fn stretch(text: &str, share: u16, length: u16) -> Range<usize> {
    let start = place(text, share);
    start..place(text, share.saturating_add(length)).max(start)
}

fn happen(text: &mut String, accident: &Accident) {
    match *accident {
        Accident::Cut(at, length) => text.replace_range(stretch(text, at, length), ""),
        Accident::Double(at, length) => {
            let range = stretch(text, at, length);
            let again = text[range.clone()].to_owned();
            text.insert_str(range.end, &again);
        }
        Accident::Move(at, length, to) => {
            let range = stretch(text, at, length);
            let moved: String = text.drain(range).collect();
            text.insert_str(place(text, to), &moved);
        }
        Accident::Put(at, piece) => text.insert_str(place(text, at), PIECES[piece]),
        Accident::Truncate(at) => text.truncate(place(text, at)),
        Accident::Line(at, again) => {
            let at = place(text, at);
            let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
            let end = text[at..]
                .find('\n')
                .map_or(text.len(), |newline| at + newline + 1);
            let line = if again {
                text[start..end].repeat(2)
            } else {
                String::new()
            };
            text.replace_range(start..end, &line);
        }
    }
}

/// How many items stand below a key of the document's own mapping, as the YAML library alone tells it.
fn items(text: &str, key: &str) -> usize {
    // How deep, whether a value of the document's mapping comes next, and whether it is the key's.
    let (mut depth, mut value, mut ours, mut count) = (0, false, false, 0);
    for event in Parser::new_from_str(text) {
        let event = event.expect("an accepted policy is YAML").0;
        let opens = matches!(event, Event::SequenceStart(..) | Event::MappingStart(..));
        let scalar = matches!(event, Event::Scalar(..));
        if matches!(event, Event::SequenceEnd | Event::MappingEnd) {
            depth -= 1;
        } else if depth == 2 && ours && (opens || scalar) {
            count += 1;
        }
        match (&event, depth) {
            (Event::Scalar(text, ..), 1) if !value => {
                ours = text == key;
                value = true;
                continue;
            }
            (Event::Scalar(..) | Event::SequenceEnd | Event::MappingEnd, 1) => value = false,
            _ => {}
        }
        depth += usize::from(opens);
    }
    count
}

/// What is told stands where it is told to stand.
fn stands(told: &Diagnostic, text: &str) -> Result<(), TestCaseError> {
    let before = text.get(..told.span.start);
    prop_assert!(
        text.get(told.span.clone()).is_some() && before.is_some(),
        "{told:?}"
    );
    let before = before.unwrap_or_default();
    prop_assert_eq!(told.line, 1 + before.matches('\n').count(), "{:?}", told);
    let of_line = before.rsplit('\n').next().unwrap_or_default();
    prop_assert_eq!(told.column, 1 + of_line.chars().count(), "{:?}", told);
    prop_assert!(
        !told.message.is_empty() && !told.message.contains('\n'),
        "{told:?}"
    );
    Ok(())
}

/// Everything that holds of any text.
fn holds(text: &str) -> Result<(), TestCaseError> {
    let (document, diagnostics) = read(text, "p.yaml");
    for told in &diagnostics {
        stands(told, text)?;
    }
    let wrong = diagnostics
        .iter()
        .any(|told| told.severity == Severity::Error);
    prop_assert_eq!(parse(text, "p.yaml").is_err(), wrong);
    if wrong {
        return Ok(());
    }
    // Nothing that stands in an accepted policy is dropped.
    let rules = document.rules.len() + document.service_rules.len();
    prop_assert_eq!(rules, items(text, "rules"));
    prop_assert_eq!(document.waivers.len(), items(text, "waivers"));
    prop_assert_eq!(document.tests.len(), items(text, "tests"));
    if let Ok(effective) = alone(text, "p.yaml") {
        // It may be too much for the tables; that is told, too.
        let _ = compile(&effective.policy, &Facts::default());
    }
    Ok(())
}

/// Everything that holds of layers, with what they include and what a catalog says to them: in this order a guardrail,
/// the run's own file, what that includes, and the catalog. Whether they make a policy.
fn hold_together(texts: [&str; 4]) -> Result<bool, TestCaseError> {
    const FILES: [&str; 4] = ["g.yaml", "p.yaml", "base.yaml", "catalog.yaml"];
    let text_of = |file: &str| FILES.iter().position(|it| *it == file).map(|at| texts[at]);
    let reading = catalog::read(&[(FILES[3], texts[3])]);
    let mut documents = Vec::new();
    for at in 0..3 {
        // What cannot be read keeps a run from starting; whoever includes it reads on.
        let (document, diagnostics) = read(texts[at], FILES[at]);
        if diagnostics
            .iter()
            .any(|told| told.severity == Severity::Error)
        {
            return Ok(false);
        }
        documents.push(document);
    }
    let own = documents.split_off(1);
    let layer = |guardrail, documents| Layer {
        guardrail,
        checked: false,
        documents,
    };
    let all: Vec<Document> = documents.iter().chain(&own).cloned().collect();
    let floor = &all[0];
    let given = Given {
        layers: vec![layer(true, documents), layer(false, own)],
        catalog: Some(&reading),
        today: Day::parse("2026-05-04").unwrap(),
        mode: None,
        service: None,
        all_final: false,
    };
    let effective = match resolve(given) {
        Ok(effective) => effective,
        Err(told) => {
            prop_assert!(told.iter().any(|told| told.severity == Severity::Error));
            for told in &told {
                let text = text_of(&told.file);
                prop_assert!(text.is_some(), "{:?}", told);
                stands(told, text.unwrap_or_default())?;
            }
            return Ok(false);
        }
    };
    for told in &effective.warnings {
        stands(told, text_of(&told.file).unwrap_or_default())?;
    }
    let policy = &effective.policy;
    // Guardrails are a floor.
    if floor
        .mode
        .as_ref()
        .is_some_and(|mode| mode.value == Mode::Enforce)
    {
        prop_assert_eq!(policy.mode, Mode::Enforce);
    }
    if floor
        .default
        .as_ref()
        .is_some_and(|default| default.value == Effect::Deny)
    {
        prop_assert_eq!(policy.default, Effect::Deny);
    }
    // Nothing that stands in a document is dropped: a rule is there as it stands, what speaks of a service is there by
    // what that provides, and a waiver is in force or told to have expired.
    for document in &all {
        for rule in &document.rules {
            let there = policy
                .rules
                .iter()
                .filter(|it| it.file == rule.file && it.line == rule.line && it.text == rule.text);
            prop_assert!(there.count() > 0, "{}:{}", rule.file, rule.line);
        }
    }
    let spoken: usize = all
        .iter()
        .map(|it| it.service_rules.len() + it.protect.len())
        .sum();
    let derived = policy
        .rules
        .iter()
        .filter(|rule| rule.derived.is_some())
        .count();
    prop_assert!(spoken == 0 || derived > 0 || !effective.warnings.is_empty());
    let waived = policy
        .rules
        .iter()
        .filter(|rule| rule.rank == Rank::Waiver)
        .count();
    let waivers: usize = all.iter().map(|it| it.waivers.len()).sum();
    prop_assert!(waivers <= waived + policy.expired.len());
    for rule in &policy.rules {
        let lines = text_of(&rule.file).map_or(0, |text| text.lines().count());
        prop_assert!(
            (1..=lines).contains(&rule.line),
            "{}:{}",
            rule.file,
            rule.line
        );
        prop_assert!(rule.rank != Rank::Final || *rule.file == *FILES[0]);
    }
    let _ = compile(policy, &Facts::default());
    Ok(true)
}

#[test]
fn real_layers_hold() {
    let own = EVERYTHING.replace("service:billing:443", "service:billing");
    assert!(hold_together([GUARDRAIL, &own, INCLUDED, CATALOG]).unwrap());
}

#[test]
fn real_policies_hold() {
    for text in REAL {
        assert!(text.len() < MAX_BYTES);
        assert!(parse(text, "p.yaml").is_ok(), "{:?}", parse(text, "p.yaml"));
        assert!(items(text, "rules") > 0);
        holds(text).unwrap();
    }
    assert_eq!(items(EVERYTHING, "rules"), 5);
    assert_eq!(items(EVERYTHING, "waivers"), 1);
    assert_eq!(items(EVERYTHING, "tests"), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn an_accident_to_a_real_policy_is_a_policy_or_told(
        which in 0..REAL.len(),
        accidents in prop::collection::vec(accident(), 1..6),
    ) {
        let mut text = REAL[which].to_owned();
        for accident in &accidents {
            happen(&mut text, accident);
        }
        holds(&text)?;
    }

    #[test]
    fn an_accident_to_a_layer_is_a_policy_or_told(
        accidents in prop::collection::vec((0..4usize, accident()), 1..4),
    ) {
        let own = EVERYTHING.replace("service:billing:443", "service:billing");
        let mut texts = [GUARDRAIL, &own, INCLUDED, CATALOG].map(str::to_owned);
        for (which, accident) in &accidents {
            happen(&mut texts[*which], accident);
        }
        hold_together([0, 1, 2, 3].map(|at| texts[at].as_str()))?;
    }
}
