//! The effective policy of several layers.

use blackstart_core::catalog::{self, Reading};
use blackstart_core::decide::{Attempt, Lease, decide};
use blackstart_core::name::Name;
use blackstart_core::policy::{
    Day, Diagnostic, Effect, Effective, Given, Layer, Policy, Rank, Rule, parse, resolve,
};
use blackstart_core::record::Verdict;
use blackstart_core::report::Mode;
use blackstart_core::tables::{Facts, Protocol, compile};

const HEAD: &str = "apiVersion: blackstart.dev/v1\nkind: Policy\n";
const TODAY: &str = "2026-11-24";

fn layer(guardrail: bool, files: &[(&str, &str)]) -> Layer {
    let documents = files
        .iter()
        .map(|(name, text)| match parse(&format!("{HEAD}{text}"), name) {
            Ok(parsed) => parsed.document,
            Err(errors) => panic!("{errors:?}"),
        });
    Layer {
        guardrail,
        checked: false,
        documents: documents.collect(),
    }
}

/// Guardrails, each of one file, and the run's own.
fn given<'a>(guardrails: &[&str], own: &str) -> Given<'a> {
    let mut layers: Vec<_> = (1..)
        .zip(guardrails)
        .map(|(n, text)| layer(true, &[(&format!("g{n}.yaml"), text)]))
        .collect();
    layers.push(layer(false, &[("own.yaml", own)]));
    Given {
        layers,
        catalog: None,
        today: Day::parse(TODAY).unwrap(),
        mode: None,
        service: None,
        all_final: false,
    }
}

fn told(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(|d| format!("{d}\n")).collect()
}

fn effective(given: Given<'_>) -> Effective {
    resolve(given).unwrap_or_else(|errors| panic!("{}", told(&errors)))
}

fn refused(given: Given<'_>) -> String {
    told(&resolve(given).unwrap_err())
}

fn shown(policy: &Policy) -> String {
    let line = |rule: &Rule| {
        format!(
            "{}:{} layer {} {:?} {:?} {}\n",
            rule.file, rule.line, rule.layer, rule.rank, rule.mode, rule.text
        )
    };
    let head = format!(
        "{:?}, default {}, {:?}\n",
        policy.mode, policy.default, policy.service
    );
    head + &policy.rules.iter().map(line).collect::<String>()
}

/// What becomes of a connect to port 443 of an address that only this name led to.
fn verdict(policy: &Policy, name: &str) -> Verdict {
    let tables = compile(policy, &Facts::default()).unwrap();
    let lease = Lease {
        class: tables.class_of_name(&Name::parse(name).unwrap()),
        deny_class: 0,
    };
    let attempt = Attempt {
        address_class: 0,
        local: false,
        resolver_dns: false,
        protocol: Protocol::Tcp,
        port: 443,
        selectors: 0,
        leases: &[lease],
    };
    decide(&tables, &attempt).verdict
}

#[test]
fn of_ports_that_are_inspected_all_are() {
    let ports = |guardrails: &[&str], own: &str| -> Vec<u16> {
        let policy = effective(given(guardrails, own)).policy;
        let facts = Facts { search: Vec::new() };
        compile(&policy, &facts).unwrap().inspect
    };
    let denying = "rules:\n  - deny: a.example\n";
    assert!(ports(&[], "rules:\n").is_empty());
    assert_eq!(ports(&[], denying), [80, 443, 3128, 8080]);
    assert_eq!(ports(&[], "default: deny\n"), [80, 443, 3128, 8080]);
    assert!(ports(&[], &format!("inspect: []\n{denying}")).is_empty());
    // Nobody turns off what a guardrail wants.
    let own = format!("inspect: []\n{denying}");
    assert_eq!(ports(&["inspect: [8443, 443]\n"], &own), [443, 8443]);
    assert_eq!(
        ports(&["inspect: [443]\n"], "inspect: [81, 443]\n"),
        [81, 443]
    );
    let many: Vec<String> = (1..=32).map(|port| port.to_string()).collect();
    let many = format!("inspect: [{}]\n", many.join(", "));
    let refused = refused(given(&[&many], "inspect: [99]\n"));
    assert!(refused.contains("more than 32 ports"), "{refused}");
}

#[test]
fn layers_come_one_after_the_other() {
    let mut given = given(
        &[
            "mode: observe\nrules:\n  - {deny: .a.example, final: true}\n  - {deny: .b.example, mode: enforce}\n",
            "rules:\n  - deny: .c.example\n",
        ],
        "service: mysql\nmode: enforce\nrules:\n  - allow: .b.example\n  - {deny: .d.example, mode: observe}\n",
    );
    given.layers[2]
        .documents
        .extend(layer(false, &[("pack.yaml", "rules: [deny: .e.example]\n")]).documents);
    insta::assert_snapshot!(shown(&effective(given).policy));
}

#[test]
fn mode_and_default_of_guardrails_are_a_floor() {
    let enforce = "mode: enforce\ndefault: deny\n";
    let made = effective(given(&[enforce, "mode: observe\ndefault: allow\n"], ""));
    assert_eq!(
        (made.policy.mode, made.policy.default),
        (Mode::Enforce, Effect::Deny)
    );
    assert!(made.warnings.is_empty());

    let made = effective(given(
        &[enforce],
        "mode: observe\ndefault: allow\nrules: [deny: a.example]\n",
    ));
    assert_eq!(
        (made.policy.mode, made.policy.default),
        (Mode::Enforce, Effect::Deny)
    );
    assert_eq!(made.policy.rules[0].mode, Mode::Enforce);
    insta::assert_snapshot!(told(&made.warnings), @r"
    own.yaml:3:7: warning: `mode: observe` does not hold, the guardrail g1.yaml:3 says `mode: enforce` (a rule may still say `mode: observe` for itself)
    own.yaml:4:10: warning: `default: allow` does not hold, the guardrail g1.yaml:4 says `default: deny` (allow what this run needs with rules)
    ");

    let made = effective(given(
        &["mode: observe\n"],
        "mode: enforce\ndefault: deny\n",
    ));
    assert_eq!(
        (made.policy.mode, made.policy.default),
        (Mode::Enforce, Effect::Deny)
    );
    assert!(made.warnings.is_empty());
}

#[test]
fn what_was_typed_cannot_lower_a_guardrail() {
    let mut typed = given(
        &[
            "mode: enforce\n",
            "rules:\n  - {deny: a.example, mode: enforce}\n",
        ],
        "mode: enforce\n",
    );
    typed.mode = Some(Mode::Observe);
    insta::assert_snapshot!(refused(typed));

    let mut typed = given(
        &["rules: [deny: a.example]\n"],
        "mode: enforce\nrules:\n  - {deny: b.example, mode: enforce}\n",
    );
    typed.mode = Some(Mode::Observe);
    let policy = effective(typed).policy;
    assert!(!policy.enforces(), "{}", shown(&policy));

    let mut typed = given(
        &[],
        "rules:\n  - deny: a.example\n  - {deny: b.example, mode: observe}\n",
    );
    typed.mode = Some(Mode::Enforce);
    typed.service = Some("typed".to_owned());
    let policy = effective(typed).policy;
    assert_eq!(verdict(&policy, "a.example"), Verdict::Deny);
    assert_eq!(verdict(&policy, "b.example"), Verdict::WouldDeny);
    assert_eq!(policy.service.as_deref(), Some("typed"));
}

#[test]
fn what_a_file_says_goes_before_what_it_includes() {
    let mut given = given(&[], "mode: observe\nservice: own\n");
    given.layers[0].documents.extend(
        layer(
            false,
            &[
                ("a.yaml", "mode: enforce\nservice: a\ndefault: allow\n"),
                ("b.yaml", "default: deny\n"),
            ],
        )
        .documents,
    );
    let policy = effective(given.clone()).policy;
    assert_eq!((policy.mode, policy.default), (Mode::Observe, Effect::Deny));
    assert_eq!(policy.service.as_deref(), Some("own"));
    given.layers[0].documents.remove(0);
    given.layers[0]
        .documents
        .insert(0, parse(HEAD, "empty.yaml").unwrap().document);
    let policy = effective(given).policy;
    assert_eq!((policy.mode, policy.default), (Mode::Enforce, Effect::Deny));
    assert_eq!(policy.service.as_deref(), Some("a"));
}

#[test]
fn only_a_guardrail_is_final() {
    let text = "rules:\n  - deny: a.example\n    final: true\n  - {deny: service:x, final: true}\n  - {allow: b.example, final: false}\n";
    insta::assert_snapshot!(refused(given(&[], text)), @r"
    own.yaml:4:5: error: only a guardrail's rule can be final (remove `final`; a guardrail of the host may have it)
    own.yaml:6:12: error: only a guardrail's rule can be final (remove `final`; a guardrail of the host may have it)
    own.yaml:6:12: error: what x provides is not known without a catalog (name its directory with `--catalog DIR`)
    ");

    let guardrail = "mode: enforce\nrules:\n  - deny: .a.example\n";
    let own = "rules:\n  - allow: x.a.example\nwaivers:\n  - {for: y.a.example, owner: o, reason: r, expires: 2027-12-31}\n";
    let policy = effective(given(&[guardrail], own)).policy;
    assert_eq!(verdict(&policy, "x.a.example"), Verdict::Allow);
    assert_eq!(verdict(&policy, "y.a.example"), Verdict::Waived);
    // As it is for a caller without root.
    let mut all_final = given(&[guardrail], own);
    all_final.all_final = true;
    let policy = effective(all_final).policy;
    assert_eq!(policy.rules[0].rank, Rank::Final);
    for name in ["x.a.example", "y.a.example"] {
        assert_eq!(verdict(&policy, name), Verdict::Deny, "{name}");
    }
}

#[test]
fn waivers_end() {
    let own = |expires: &str| {
        format!(
            "mode: enforce\nrules: [deny: .a.example]\nwaivers:\n  - for: x.a.example\n    owner: team-db\n    reason: until the mirror has it\n    expires: {expires}\n"
        )
    };
    let judged = |expires: &str| {
        let made = effective(given(&[], &own(expires)));
        (verdict(&made.policy, "x.a.example"), told(&made.warnings))
    };
    // The last day counts.
    for (expires, wanted) in [
        ("2026-12-09", ""),
        (
            "2026-12-08",
            "own.yaml:9:14: warning: the waiver for x.a.example expires in 14 days (ask team-db what is to become of it)\n",
        ),
        (
            "2026-11-25",
            "own.yaml:9:14: warning: the waiver for x.a.example expires tomorrow (ask team-db what is to become of it)\n",
        ),
        (
            "2026-11-24",
            "own.yaml:9:14: warning: the waiver for x.a.example expires today (ask team-db what is to become of it)\n",
        ),
    ] {
        assert_eq!(
            judged(expires),
            (Verdict::Waived, wanted.to_owned()),
            "{expires}"
        );
    }
    let (verdict, warned) = judged("2026-11-23");
    assert_eq!(verdict, Verdict::Deny);
    insta::assert_snapshot!(warned, @"own.yaml:9:14: warning: the waiver for x.a.example expired on 2026-11-23 and has no effect (remove it, or ask team-db whether it is still needed)");

    let expired = effective(given(&[], &own("2026-11-23"))).policy.expired;
    assert_eq!(expired.len(), 1);
    assert_eq!(expired[0].owner.as_deref(), Some("team-db"));

    let mut checked = given(&[], &own("2026-11-23"));
    checked.layers[0].checked = true;
    insta::assert_snapshot!(refused(checked), @"own.yaml:9:14: error: the waiver for x.a.example expired on 2026-11-23 (remove it, or ask team-db whether it is still needed)");
}

#[test]
fn rules_are_compared_within_a_layer() {
    let text = "rules:\n  - deny: a.example\n  - {deny: a.example, process: git}\nwaivers:\n  - {for: a.example, owner: o, reason: r, expires: 2027-12-31}\n";
    assert_eq!(told(&effective(given(&[text], text)).warnings), "");
    let mut twice = given(&[], text);
    let again = layer(
        false,
        &[(
            "pack.yaml",
            "rules:\n  - allow: a.example\n  - {deny: a.example, process: git, mode: observe}\nwaivers:\n  - {for: a.example, owner: o, reason: r, expires: 2027-12-30}\n",
        )],
    );
    twice.layers[0].documents.extend(again.documents);
    insta::assert_snapshot!(told(&effective(twice).warnings));
}

#[test]
fn what_any_layer_follows_is_followed() {
    let followed = |guardrails: &[&str], own: &str| {
        let made = effective(given(guardrails, own));
        let units = made
            .policy
            .follow
            .iter()
            .map(|unit| unit.as_str().to_owned());
        units.collect::<Vec<_>>()
    };
    assert_eq!(followed(&["mode: observe\n"], "default: allow\n"), [""; 0]);
    assert_eq!(
        followed(
            &["follow: [mysql.service]\n"],
            "follow: [\"app-*.service\", mysql.service]\n"
        ),
        ["app-*.service", "mysql.service"]
    );
}

fn catalog() -> Reading {
    let service = |name: &str, more: &str| {
        format!("---\napiVersion: blackstart.dev/v1\nkind: Service\nname: {name}\n{more}")
    };
    let text = [
        service("mysql", "owner: team-db\nprovides: [10.20.0.0/16:3306, \"unix:/run/my[0].sock\"]\n"),
        service("github", "owner: team-git\nprovides: [.github.com, {endpoint: \"192.0.2.7:53\", protocol: udp}]\nneeds: [mysql]\n"),
        service("migrations", "owner: team-schema\nprovides: [\"migrations.internal:443\"]\nneeds: [github]\n"),
        service("silent", "needs: [github]\n"),
    ]
    .concat();
    let reading = catalog::read(&[("services.yaml", &text)]);
    assert!(!reading.partial, "{}", told(&reading.diagnostics));
    reading
}

fn derived(text: &str) -> (String, String) {
    let catalog = catalog();
    let made = effective(Given {
        catalog: Some(&catalog),
        ..given(&[], text)
    });
    let lines = made.policy.rules.iter().map(|rule| {
        format!(
            "{} | {} | {} | {}\n",
            rule.text,
            rule.reason.as_deref().unwrap_or("-"),
            rule.owner.as_deref().unwrap_or("-"),
            rule.line,
        )
    });
    (lines.collect(), told(&made.warnings))
}

#[test]
fn what_is_protected_takes_what_needs_it_with_it() {
    let (rules, warnings) = derived("protect: [github]\n");
    insta::assert_snapshot!(rules);
    insta::assert_snapshot!(warnings, @"own.yaml:3:11: warning: silent ought to be out of reach as well, and the catalog does not say what it provides (say under `provides:` by which names and addresses it is reached)");
    let (rules, _) = derived("protect:\n  - mysql\n");
    insta::assert_snapshot!("from_mysql", rules);
}

#[test]
fn a_service_stands_for_what_it_provides() {
    let (rules, warnings) = derived(
        "rules:\n  - deny: service:github\n    reason: ours\n    process: git\n  - deny: service:mysql:3306\n  - allow: service:mysql:22\n  - deny: service:silent\n  - {deny: service:github, protocol: tcp}\nwaivers:\n  - {for: service:migrations, owner: o, reason: r, expires: 2027-12-31}\n",
    );
    insta::assert_snapshot!(rules);
    insta::assert_snapshot!("service_warnings", warnings);
}

#[test]
fn a_socket_of_the_catalog_is_one_socket() {
    let catalog = catalog();
    let made = effective(Given {
        catalog: Some(&catalog),
        ..given(&[], "mode: enforce\nrules: [deny: service:mysql]\n")
    });
    let tables = compile(&made.policy, &Facts::default()).unwrap();
    assert_ne!(tables.class_of_socket(b"/run/my[0].sock"), 0);
    assert_eq!(tables.class_of_socket(b"/run/my0.sock"), 0);
}

#[test]
fn services_that_cannot_be_looked_up() {
    let text = "protect: [githbu, mysql, nothing]\nrules:\n  - deny: service:migration\nwaivers:\n  - {for: service:mysqll, owner: o, reason: r, expires: 2027-12-31}\n";
    let catalog = catalog();
    let mut with = given(&[], text);
    with.catalog = Some(&catalog);
    let partial = Reading {
        partial: true,
        ..self::catalog()
    };
    let mut partly = given(&[], "protect: [github]\n");
    partly.catalog = Some(&partial);
    let all = [refused(with), refused(given(&[], text)), refused(partly)];
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn the_tests_are_those_of_the_runs_own_file() {
    let one = |to: &str| format!("tests:\n  - {{ to: {to}, expect: allow }}\n");
    let mut given = given(&[&one("a.example")], &one("b.example:443"));
    let pack = layer(false, &[("pack.yaml", &one("c.example"))]);
    given.layers[1].documents.extend(pack.documents);
    let tests = effective(given).tests;
    let texts: Vec<_> = tests.iter().map(|test| test.text.as_str()).collect();
    assert_eq!(texts, ["b.example:443"]);
    assert_eq!(tests[0].port, Some(443));
}

#[test]
fn a_policy_is_kept_as_it_is() {
    let catalog = catalog();
    let text = "mode: enforce\nprotect: [github]\nrules:\n  - {deny: \"unix:/run/*.sock\", process: ancestor:git, on_match: refuse EPERM, reaction: fail, reason: r, fix: f}\n  - {deny: \"*:25\", protocol: tcp, mode: observe, on_match: blackhole}\nwaivers:\n  - {for: a.example, owner: o, reason: r, expires: 2026-01-01}\n";
    let policy = effective(Given {
        catalog: Some(&catalog),
        ..given(
            &["rules: [{deny: \"[fd00::/8]:1-22\", final: true}]\n"],
            text,
        )
    })
    .policy;
    let kept = serde_json::to_string(&policy).unwrap();
    assert_eq!(serde_json::from_str::<Policy>(&kept).unwrap(), policy);
}

#[test]
fn too_many_diagnostics_are_counted() {
    let waivers: String = (0..500)
        .map(|n| format!("  - {{for: h{n}.example, owner: o, reason: r, expires: 2026-01-01}}\n"))
        .collect();
    let made = effective(given(&[], &format!("waivers:\n{waivers}")));
    assert_eq!(made.warnings.len(), 200);
    let last = made.warnings.last().unwrap().to_string();
    assert!(
        last.ends_with("(300 more of these follow; mend those above first)"),
        "{last}"
    );
    assert_eq!(made.policy.expired.len(), 500);
}
