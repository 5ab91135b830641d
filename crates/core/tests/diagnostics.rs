//! What the author of a policy is told.

use blackstart_core::policy::{
    Diagnostic, Document, Effect, Effective, Policy, alone, parse, read,
};
use blackstart_core::report::Mode;
use proptest::prelude::*;

/// Every diagnostic with the text that it points at.
fn shown(text: &str, diagnostics: &[Diagnostic]) -> String {
    diagnostics
        .iter()
        .map(|d| format!("{d}\n    at {:?}\n", &text[d.span.clone()]))
        .collect()
}

fn complaints(text: &str) -> String {
    match alone(text, "p.yaml") {
        Ok(Effective { warnings, .. }) => format!("accepted\n{}", shown(text, &warnings)),
        Err(diagnostics) => shown(text, &diagnostics),
    }
}

fn accepted(text: &str) -> Policy {
    match alone(text, "p.yaml") {
        Ok(Effective {
            policy, warnings, ..
        }) if warnings.is_empty() => policy,
        _ => panic!("{}", complaints(text)),
    }
}

const HEAD: &str = "apiVersion: blackstart.dev/v1\nkind: Policy\n";

#[test]
fn a_whole_policy() {
    let policy = accepted(
        r#"# what mysql's deploy may reach
apiVersion: blackstart.dev/v1
kind: Policy
service: mysql
mode: enforce
default: allow
rules:
  - deny: .github.com
    reason: github.com is served by this database
    fix: fetch from the internal mirror
  - allow: mirror.internal:443
    protocol: tcp
  - {deny: "*.example.com:8000-8999", protocol: udp}
  - deny: 10.20.0.0/16
  - deny: "[fd00::1]:22"
  - deny: "*:25"
"#,
    );
    assert_eq!(
        (policy.mode, policy.default, policy.service.as_deref()),
        (Mode::Enforce, Effect::Allow, Some("mysql"))
    );
    let lines: Vec<_> = policy
        .rules
        .iter()
        .map(|r| format!("{}:{} {}", r.line, r.column, r.text))
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
    assert_eq!(
        policy.rules[0].reason.as_deref(),
        Some("github.com is served by this database")
    );
    assert_eq!(
        policy.rules[0].fix.as_deref(),
        Some("fetch from the internal mirror")
    );
    assert_eq!(&*policy.rules[0].file, "p.yaml");
    assert_eq!(policy.rule(1), Some(&policy.rules[0]));
    assert_eq!((policy.rule(0), policy.rule(7)), (None, None));
}

#[test]
fn what_is_left_out_has_the_safe_default() {
    assert_eq!(accepted(HEAD), Policy::default());
    assert_eq!(accepted(&format!("{HEAD}rules: []\n")), Policy::default());
    assert_eq!(accepted(&format!("{HEAD}rules:\n")), Policy::default());
}

#[test]
fn all_at_once() {
    let text = r#"apiVersion: blackstart.dev/v2
kind: Polcy
servce: mysql
mode: enforced
default: [deny]
mode: observe
lease: forever
inspect: [80, https, 0]
rules:
  - dney: github.com
  - deny: github.com
    resaon: because
    on_match: refuze
    process: a/b
  - deny: github.com
    allow: example.com
  - reason: nothing else
  - github.com
  - deny: [a.com, b.com]
  - deny:
  - deny: true
  - deny: https://github.com/x
  - deny: 10.20.0.1/16
  - deny: 0.0.0.0/0
  - deny: "*"
  - allow: .co.uk
  - deny: service:a b
  - deny: unix:docker.sock
  - deny: evil-*.com
  - deny: github.com:99999
    protocol: icmp
tests: none
"#;
    insta::assert_snapshot!(complaints(text));
}

#[test]
fn the_whole_language() {
    let text = r#"apiVersion: blackstart.dev/v1
kind: Policy
include: [base.yaml, ../other.yaml]
rules:
  - deny: .github.com
    process: ancestor:terraform
    mode: observe
    on_match: refuse EHOSTUNREACH
    reaction: fail
  - deny: unix:/run/docker.sock
    process: /usr/bin/git*
    on_match: reset
  - deny: unix:@bus
  - {deny: "*:25", on_match: blackhole, protocol: tcp}
waivers:
  - for: "*.hub.example:443"
    process: terraform
    owner: team-db
    reason: until the mirror has providers
    expires: 2026-12-31
tests:
  - { to: api.github.com:443, expect: deny }
  - { to: 10.1.2.3, protocol: udp, expect: allow, rule: default }
  - { to: "[::1]:22", process: /bin/ssh, expect: would_deny }
  - { to: api.hub.example, address: 192.0.2.1, expect: waived }
  - { to: unix:/run/docker.sock, expect: deny }
"#;
    let Ok(parsed) = parse(text, "p.yaml") else {
        panic!("{}", complaints(text))
    };
    let document = parsed.document;
    assert!(parsed.warnings.is_empty());
    let includes: Vec<_> = document.include.iter().map(|w| w.value.as_str()).collect();
    assert_eq!(includes, ["base.yaml", "../other.yaml"]);
    let rules = document
        .rules
        .iter()
        .zip(&document.notes)
        .map(|(rule, note)| {
            format!(
                "{} | {:?} {:?} {:?} {:?}\n",
                rule.text, rule.target, note.mode, rule.failure, rule.reaction
            )
        });
    let waivers = document.waivers.iter().map(|waiver| {
        format!(
            "{} | until {} by {:?}\n",
            waiver.rule.text, waiver.expires, waiver.rule.owner
        )
    });
    let tests = document.tests.iter().map(|test| {
        format!(
            "{} | {:?} {:?} {:?}\n",
            test.text, test.to, test.port, test.expect
        )
    });
    insta::assert_snapshot!(rules.chain(waivers).chain(tests).collect::<String>());
}

#[test]
fn what_makes_no_sense() {
    let text = r#"apiVersion: blackstart.dev/v1
kind: Policy
service: ""
include: base.yaml
protect: [github, github, ""]
rules:
  - allow: a.example
    mode: observe
    on_match: reset
    reaction: warn
    fix: x
  - deny: unix:/run/x.sock
    protocol: tcp
    on_match: blackhole
  - deny: unix:/run/x.sock:80
  - deny: b.example
    on_match: refuse ENOENT
    reaction: explode
    final: "true"
    process: ancestor:a/b
  - deny: service:x:99999
waivers:
  - for: .com
    owner: a
    reason: b
    expires: 2026-02-30
  - {for: c.example, owner: "", expires: 2026-12-31}
  - {owner: a, reason: b, expires: never}
  - {fro: c.example, owner: a, reason: b, expires: 2026-12-31}
  - {for: d.example, owner: a, reason: b, expires: 2026-12-31, final: true}
  - c.example
tests:
  - {to: "*.github.com", expect: deny}
  - {to: "github.com:1-2", expect: deny}
  - {to: 10.0.0.0/8, expect: deny}
  - {to: service:x, expect: deny}
  - {to: "unix:/run/*", expect: deny}
  - {to: 10.0.0.1, address: 10.0.0.2, expect: deny}
  - {to: a.example, address: b.example, expect: refused}
  - {to: unix:/run/x, protocol: tcp, expect: deny}
  - {to: a.example}
  - {expect: deny}
"#;
    insta::assert_snapshot!(complaints(text));
}

#[test]
fn what_is_followed_is_a_service() {
    insta::assert_snapshot!(complaints(
        r#"apiVersion: blackstart.dev/v1
kind: Policy
folow: [mysql.service]
follow:
  - mysql.service
  - mysql.service
  - mysql
  - mysql.socket
  - "*.service"
  - ../mysql.service
  - 7.service
  - [a.service]
"#
    ));
    insta::assert_snapshot!(complaints(
        "apiVersion: blackstart.dev/v1\nkind: Policy\nfollow: mysql.service\n"
    ));
}

#[test]
fn the_file_as_a_whole() {
    let deep = format!("{HEAD}rules: {}{}", "[".repeat(40), "]".repeat(40));
    let cases: &[(&str, &str)] = &[
        ("empty", ""),
        ("blank", "\n\n# only words\n"),
        ("null", "~"),
        (
            "two documents",
            "apiVersion: blackstart.dev/v1\nkind: Policy\n---\nkind: Policy\n",
        ),
        ("a list", "- deny: github.com\n"),
        ("a word", "deny"),
        (
            "an unquoted star",
            "apiVersion: blackstart.dev/v1\nkind: Policy\nrules:\n  - deny: *.github.com\n",
        ),
        (
            "a lone star",
            "apiVersion: blackstart.dev/v1\nkind: Policy\nrules:\n  - deny: *\n",
        ),
        (
            "an unquoted star with a port",
            "apiVersion: blackstart.dev/v1\nkind: Policy\nrules:\n  - {deny: *:25, reason: x}\n",
        ),
        (
            "a known alias",
            "apiVersion: &v blackstart.dev/v1\nkind: *v\n",
        ),
        (
            "a tag",
            "apiVersion: !!str blackstart.dev/v1\nkind: Policy\n",
        ),
        (
            "bad indentation",
            "apiVersion: blackstart.dev/v1\n  kind: Policy\n",
        ),
        (
            "an open quote",
            "apiVersion: blackstart.dev/v1\nservice: \"mysql\nkind: Policy\n",
        ),
        (
            "a tab",
            "apiVersion: blackstart.dev/v1\nrules:\n\t- deny: a.b\n",
        ),
        ("nothing but keys", "kind:\nrules: yes\nservice: true\n"),
        ("a key that is a list", "? [a]\n: b\n"),
        ("too deep", &deep),
    ];
    let told: String = cases
        .iter()
        .map(|(what, text)| format!("# {what}\n{}", complaints(text)))
        .collect();
    insta::assert_snapshot!(told);
}

#[test]
fn warnings_come_beside_a_policy() {
    let text = format!(
        "{HEAD}rules:\n  - deny: .com\n  - deny: github.com\n  - deny: GitHub.com.\n  - allow: github.com\n  - allow: github.com:443\n  - deny: .internal\n"
    );
    let Ok(parsed) = alone(&text, "p.yaml") else {
        panic!("{}", complaints(&text))
    };
    assert_eq!(parsed.policy.rules.len(), 6);
    insta::assert_snapshot!(shown(&text, &parsed.warnings));
}

#[test]
fn what_leaves_nothing_of_an_allow_list_is_a_warning() {
    let rules = "rules:\n  - allow: \"*:443\"\n  - allow: 0.0.0.0/0:22\n  - {allow: \"[::/0]:22\", process: ssh}\n  - allow: 10.0.0.0/8:22\n  - deny: \"*:25\"\n";
    let text = format!("{HEAD}default: deny\n{rules}");
    let Ok(parsed) = alone(&text, "p.yaml") else {
        panic!("{}", complaints(&text))
    };
    insta::assert_snapshot!(shown(&text, &parsed.warnings));
    // Of a deny-list they take nothing away.
    accepted(&format!("{HEAD}{rules}"));
}

#[test]
fn places_are_right_after_text_of_many_bytes() {
    let text = format!(
        "{HEAD}service: \"Bücher — 例え\" # ✓\r\nrules:\r\n  - {{reason: größer, deny: gro%ß.de}}\r\n"
    );
    insta::assert_snapshot!(complaints(&text));
}

#[test]
fn too_much_is_refused_and_not_chewed_on() {
    let long = "x".repeat((16 << 20) + 1);
    assert!(parse(&long, "p").is_err_and(|d| d.len() == 1));
    let keys: String = (0..50_000).map(|n| format!("key{n}: 1\n")).collect();
    let errors = parse(&keys, "p").unwrap_err();
    assert_eq!(errors.len(), 201);
}

#[test]
fn rules_are_read_while_the_text_is_and_told_in_their_turn() {
    // Of a text that is no YAML only that is told, whatever stood before.
    let text = format!("{HEAD}rules:\n  - dney: a.example\n  - deny: b.example\nservice: \"x\n");
    let Err(errors) = parse(&text, "p") else {
        panic!("accepted")
    };
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].message.starts_with("not valid YAML"));
    let (document, _) = read(&text, "p");
    assert_eq!(document, Document::default());
    // What is wrong at the top is told, though there is no room for all that is wrong with the rules.
    let rules = "  - dney: a.example\n".repeat(300);
    let errors = parse(&format!("{HEAD}rules:\n{rules}servce: x\n"), "p").unwrap_err();
    assert_eq!(errors.len(), 201);
    assert!(errors[199].message.starts_with("more errors follow"));
    assert!(errors[200].message.contains("servce"));
    // Of two lists of rules the first is read, and it is told of the second that it is one too many.
    for (first, second, read_rules) in [
        ("[{deny: a.example}]", "[{dney: b.example}]", 1),
        ("none", "[{deny: b.example}]", 0),
    ] {
        let text = format!("{HEAD}rules: {first}\nrules: {second}\n");
        let (document, errors) = read(&text, "p");
        assert_eq!(document.rules.len(), read_rules, "{first}");
        assert!(errors.last().unwrap().message.contains("stands twice"));
        assert_eq!(errors.len(), 2 - read_rules, "{errors:?}");
    }
    // Only the document's own list is.
    let (document, _) = read(
        &format!("{HEAD}tests: {{rules: [{{deny: a.example}}]}}\n"),
        "p",
    );
    assert_eq!(document.rules.len(), 0);
}

#[test]
fn a_hundred_thousand_rules_are_read() {
    let rules: String = (0..100_000)
        .map(|n| format!("  - deny: .host{n}.example\n"))
        .collect();
    assert_eq!(
        accepted(&format!("{HEAD}rules:\n{rules}")).rules.len(),
        100_000
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_text_is_a_policy_or_an_error(text in prop_oneof![
        ".*",
        "(apiVersion|kind|rules|deny|allow|mode|[&*!|>?%@`\"'#-]|[:{}\\[\\],~]|\\n| |\\t|a|é|\\.|\\*)*",
        "(- deny: |- allow: |  |\\n|\\*|\\.|:|/|\\[|\\]|[0-9a-f]|-|\"){0,40}".prop_map(|t| format!("{HEAD}rules:\n  - deny: a.b\n{t}")),
        "[\\[\\]:*./0-9a-z%-]{0,24}".prop_map(|t| format!("{HEAD}rules:\n  - deny: \"{t}\"\n")),
    ]) {
        match parse(&text, "p.yaml") {
            Ok(parsed) => prop_assert!(parsed.warnings.iter().all(|d| text.get(d.span.clone()).is_some())),
            Err(diagnostics) => {
                prop_assert!(!diagnostics.is_empty());
                for d in diagnostics {
                    prop_assert!(text.get(d.span.clone()).is_some(), "{:?} of {:?}", d.span, text);
                    prop_assert!(d.line >= 1 && d.column >= 1);
                }
            }
        }
    }
}
