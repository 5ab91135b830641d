//! What is said of a verdict.

use blackstart_core::explain::{Explanation, Question, Why, explain};
use blackstart_core::policy::{Day, Destination, Effective, Given, Layer, alone, parse, resolve};
use blackstart_core::record::Verdict;
use blackstart_core::tables::{Facts, Protocol, compile};

const HEAD: &str = "apiVersion: blackstart.dev/v1\nkind: Policy\nmode: enforce\n";

fn effective(text: &str) -> Effective {
    alone(&format!("{HEAD}{text}"), "p.yaml").unwrap()
}

fn question(to: &str) -> Question {
    let (to, port) = Destination::parse(to).unwrap();
    Question {
        to,
        port,
        address: None,
        process: None,
        ancestors: Vec::new(),
        protocol: Protocol::Tcp,
    }
}

fn asked(effective: &Effective, question: &Question) -> Explanation {
    let tables = compile(&effective.policy, &Facts::default()).unwrap();
    explain(&effective.policy, &tables, question)
}

/// The verdict, its rule, and each rule that lost with the reason.
fn told(explanation: &Explanation) -> Vec<String> {
    let mut lines = vec![format!("{:?}", explanation.verdict)];
    for (step, judged) in [
        ("lookup", &explanation.lookup),
        ("connect", &explanation.connect),
    ] {
        let Some(judged) = judged else { continue };
        lines.push(format!(
            "{step}: {:?}, {}",
            judged.verdict, judged.rule.text
        ));
        for lost in &judged.lost {
            let to = lost.to.as_ref().map_or("-", |to| to.text.as_str());
            lines.push(format!("  {}: {} ({to})", lost.rule.text, lost.why));
        }
    }
    for missed in &explanation.missed {
        lines.push(format!("missed {}: {}", missed.rule.text, missed.why));
    }
    lines
}

#[test]
fn what_lost_says_why() {
    let effective = effective(
        "\
rules:
  - deny: .github.com
  - allow: api.github.com:443
  - deny: api.github.com:443
  - { allow: api.github.com, process: terraform }
  - deny: 10.0.0.0/8
  - allow: 10.1.0.0/16
  - { deny: api.github.com, protocol: udp }
waivers:
  - { for: .github.com, process: git, owner: a, reason: b, expires: 9999-12-31 }
",
    );
    let mut question = question("api.github.com:443");
    question.address = "10.1.2.3".parse().ok();
    question.process = Some("/usr/bin/terraform".to_owned());
    assert_eq!(
        told(&asked(&effective, &question)),
        [
            "Deny",
            "lookup: Allow, allow api.github.com, process terraform",
            "  deny api.github.com:443: a name may be looked up if it can be reached on some port (allow api.github.com, process terraform)",
            "  allow api.github.com:443: as close, and a deny goes before an allow (deny api.github.com:443)",
            "  deny api.github.com, protocol udp: a name may be looked up if it can be reached on some port (allow api.github.com, process terraform)",
            "  deny .github.com: the other describes the name more closely (allow api.github.com, process terraform)",
            "connect: Deny, deny api.github.com:443",
            "  allow 10.1.0.0/16: the name by which the address was found is denied (deny api.github.com:443)",
            "  allow api.github.com:443: as close, and a deny goes before an allow (deny api.github.com:443)",
            "  allow api.github.com, process terraform: the other is about fewer ports (deny api.github.com:443)",
            "  deny .github.com: the other describes the name more closely (deny api.github.com:443)",
            "  deny 10.0.0.0/8: the other's addresses are fewer (allow 10.1.0.0/16)",
            "missed deny api.github.com, protocol udp: it is for udp only",
            "missed waiver for .github.com, process git: it is for the process git only",
        ]
    );
}

#[test]
fn a_rule_about_an_ancestor_holds_for_what_that_one_starts() {
    let effective = effective(
        "rules:\n  - { deny: .github.com, process: \"ancestor:/srv/**\" }\n  - { deny: .github.com, process: make }\n",
    );
    let mut question = question("api.github.com:443");
    question.process = Some("/usr/bin/curl".to_owned());
    assert_eq!(asked(&effective, &question).verdict, Verdict::Allow);
    question.ancestors = ["/usr/bin/make", "/srv/deploy.sh"]
        .map(str::to_owned)
        .to_vec();
    let explained = asked(&effective, &question);
    assert_eq!(explained.verdict, Verdict::Deny);
    let text = "api.github.com:443 by /usr/bin/curl below /usr/bin/make and /srv/deploy.sh";
    assert_eq!(explained.destination, text);
    // What is said of one program is not said of what that one starts.
    assert_eq!(explained.missed.len(), 1);
}

#[test]
fn a_waiver_covers_its_process_only() {
    let effective = effective(
        "\
rules:
  - deny: .github.com
waivers:
  - { for: api.github.com, process: terraform, owner: a, reason: b, expires: 9999-12-31 }
",
    );
    let mut question = question("api.github.com:443");
    let refused = asked(&effective, &question);
    assert_eq!(refused.verdict, Verdict::Deny);
    assert_eq!(refused.missed.len(), 1);
    assert_eq!(
        refused.missed[0].why.to_string(),
        "it is for the process terraform only"
    );
    question.process = Some("/opt/terraform".to_owned());
    let waived = asked(&effective, &question);
    assert_eq!(waived.verdict, Verdict::Waived);
    let lost = &waived.connect.unwrap().lost;
    assert_eq!((lost.len(), lost[0].why), (1, Why::Waiver));
    assert_eq!(lost[0].rule.text, "deny .github.com");
}

#[test]
fn the_address_goes_before_the_name() {
    let effective = effective("rules: [deny: 10.20.0.0/16, allow: a.example]\n");
    let mut question = question("a.example:80");
    question.address = "10.20.1.1".parse().ok();
    let explained = asked(&effective, &question);
    let connect = explained.connect.unwrap();
    assert_eq!(connect.rule.text, "deny 10.20.0.0/16");
    assert_eq!(
        connect.through.unwrap().to_string(),
        "the addresses 10.20.0.0/16"
    );
    assert_eq!(connect.lost[0].why, Why::AddressDenied);
    question.address = None;
    let explained = asked(&effective, &question);
    assert_eq!(explained.verdict, Verdict::Allow);
    assert!(
        explained.remarks[0].contains("not known"),
        "{:?}",
        explained.remarks
    );
}

#[test]
fn what_no_rule_is_about_falls_to_the_default() {
    let allow_list = effective("default: deny\nrules: [allow: mirror.internal:443]\n");
    let explained = asked(&allow_list, &question("example.org:443"));
    assert_eq!(explained.verdict, Verdict::Deny);
    assert_eq!(explained.deciding().unwrap().rule.text, "default: deny");
    let explained = asked(&allow_list, &question("mirror.internal:80"));
    assert_eq!(explained.lookup.as_ref().unwrap().verdict, Verdict::Allow);
    assert_eq!(explained.verdict, Verdict::Deny);
    assert_eq!(
        explained.missed[0].why.to_string(),
        "it is for port 443 only"
    );
    let explained = asked(&allow_list, &question("127.0.0.1:3306"));
    assert_eq!(
        explained.deciding().unwrap().rule.text,
        "built-in: local address"
    );
}

#[test]
fn sockets_have_no_default() {
    let effective = effective(
        "default: deny\nrules: [deny: unix:/run/docker.sock, allow: 'unix:/run/*.sock']\n",
    );
    let explained = asked(&effective, &question("unix:/run/docker.sock"));
    assert_eq!(explained.verdict, Verdict::Deny);
    assert_eq!(explained.connect.unwrap().lost[0].why, Why::Path);
    let explained = asked(&effective, &question("unix:/run/x"));
    assert_eq!(explained.verdict, Verdict::Allow);
    let explained = asked(&effective, &question("unix:/run/nscd/socket"));
    assert_eq!(explained.verdict, Verdict::Deny);
    assert_eq!(
        explained.deciding().unwrap().rule.text,
        "built-in: resolver socket"
    );
}

#[test]
fn how_it_ends_and_what_it_does_to_the_exit_code() {
    let effective = effective(
        "rules: [{ deny: a.example, on_match: blackhole, reaction: fail }, { deny: b.example, mode: observe, reaction: fail }]\n",
    );
    let explained = asked(&effective, &question("a.example"));
    let lookup = explained.lookup.unwrap();
    assert_eq!(
        (lookup.on_match.as_deref(), lookup.fails_run),
        (Some("blackhole"), true)
    );
    let explained = asked(&effective, &question("b.example:1"));
    assert_eq!(explained.verdict, Verdict::WouldDeny);
    assert!(!explained.deciding().unwrap().fails_run);
}

#[test]
fn an_expired_waiver_is_told() {
    let text = format!(
        "{HEAD}rules: [deny: .github.com]\nwaivers: [{{ for: github.com, owner: a, reason: b, expires: 2026-01-31 }}]\n"
    );
    let layer = Layer {
        guardrail: false,
        checked: false,
        documents: vec![parse(&text, "p.yaml").unwrap().document],
    };
    let effective = resolve(Given {
        layers: vec![layer],
        catalog: None,
        today: Day::parse("2026-02-01").unwrap(),
        mode: None,
        service: None,
        all_final: false,
    })
    .unwrap();
    let explained = asked(&effective, &question("github.com"));
    assert_eq!(explained.verdict, Verdict::Deny);
    assert_eq!(
        explained.missed[0].why.to_string(),
        "it expired on 2026-01-31"
    );
}

#[test]
fn a_test_holds_on_the_way_from_observe_to_enforce() {
    let policy = |mode| {
        format!(
            "apiVersion: blackstart.dev/v1\nkind: Policy\nmode: {mode}\nrules: [deny: a.example, {{ deny: b.example, mode: observe }}]\ntests:\n  - {{ to: a.example, expect: deny, rule: deny a.example }}\n  - {{ to: b.example, expect: deny }}\n  - {{ to: a.example, expect: deny, rule: default }}\n  - {{ to: c.example, expect: allow, rule: default }}\n  - {{ to: a.example, expect: would_deny }}\n"
        )
    };
    let results = |mode| {
        let effective = alone(&policy(mode), "p.yaml").unwrap();
        let tables = compile(&effective.policy, &Facts::default()).unwrap();
        let of = |case| {
            explain(&effective.policy, &tables, &Question::from(case))
                .meets(case, &effective.policy)
                .err()
                .unwrap_or_default()
        };
        effective.tests.iter().map(of).collect::<Vec<_>>()
    };
    let rule = "expected the rule `default`, and it is `deny a.example`";
    assert_eq!(results("observe"), ["", "", rule, "", ""]);
    assert_eq!(
        results("enforce"),
        [
            "",
            "expected deny, and it is would_deny",
            rule,
            "",
            "expected would_deny, and it is deny"
        ]
    );
}
