//! The reader of policies under what people and accidents do to a file: real policies, cut up, doubled and mistyped.

use std::ops::Range;

use blackstart_core::policy::{MAX_BYTES, Severity, alone, parse, read};
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

/// Everything that holds of any text.
fn holds(text: &str) -> Result<(), TestCaseError> {
    let (document, diagnostics) = read(text, "p.yaml");
    for told in &diagnostics {
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
}
