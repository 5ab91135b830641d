//! What is told of it, once each.

use super::*;

#[test]
fn a_lookup_and_a_connect_of_one_name_are_one_finding() {
    let policy = policy();
    let mut record = record();
    record.queries = vec![query(1, 10, Verdict::Deny, 1)];
    let lookup = assemble(&record, &facts(Some(&policy)));
    let [only] = of_kind(&lookup, "denied_dependency")[..] else {
        panic!("{:?}", lookup.findings)
    };
    assert_eq!(only.title, "curl was refused the lookup of github.com");

    record.flows = vec![flow(10, 1, "10.0.0.1", Verdict::Deny, 1)];
    let both = assemble(&record, &facts(Some(&policy)));
    let [only] = of_kind(&both, "denied_dependency")[..] else {
        panic!("{:?}", both.findings)
    };
    assert_eq!(only.title, "curl was refused github.com:443");
    assert_eq!(
        (only.severity, &only.subjects[..]),
        (Severity::Error, &[2, 1][..])
    );
    assert_eq!(only.rule.as_deref(), Some("deny .github.com"));
    assert_eq!(
        (only.reason.as_deref(), only.fix.as_deref()),
        (Some("served by this database"), Some("use the mirror"))
    );

    // Another program, another address of the same name, another process of the same program.
    record.queries.push(query(1, 20, Verdict::Deny, 1));
    record.flows.push(flow(10, 1, "10.0.0.2", Verdict::Deny, 1));
    record.subjects.push(subject(11, 30, "/opt/bin/curl", 4));
    record.queries.push(query(1, 11, Verdict::Deny, 1));
    assert_eq!(
        of_kind(
            &assemble(&record, &facts(Some(&policy))),
            "denied_dependency"
        )
        .len(),
        2
    );
}

#[test]
fn observe_warns_and_says_what_enforce_would_do() {
    let mut record = record();
    record.flows = vec![flow(10, 0, "2001:db8::1", Verdict::WouldDeny, RULE_DEFAULT)];
    let report = assemble(&record, &facts(None));
    let [only] = of_kind(&report, "would_deny")[..] else {
        panic!("{:?}", report.findings)
    };
    assert_eq!(
        (only.title.as_str(), only.severity),
        ("curl would be refused [2001:db8::1]:443", Severity::Warning)
    );
    assert_eq!(only.rule.as_deref(), Some("default"));
    assert!(of_kind(&report, "denied_dependency").is_empty());
}

#[test]
fn ids_do_not_depend_on_the_run() {
    let policy = policy();
    let id_of =
        |record: &Snapshot, facts: &RunFacts<'_>| assemble(record, facts).findings[0].id.clone();
    let mut one = record();
    one.flows = vec![flow(10, 1, "10.0.0.1", Verdict::Deny, 1)];
    let mut other = one.clone();
    other.boot_offset_ns += 12_345;
    other.flows[0].address = "10.9.9.9".parse().unwrap();
    other.subjects[0].exe = "/opt/curl".into();
    let far = RunFacts {
        host: "db2".into(),
        id: "x".into(),
        ..facts(Some(&policy))
    };
    assert_eq!(id_of(&one, &facts(Some(&policy))), id_of(&other, &far));
    // A part of the format: a change of it breaks whoever keeps ids.
    assert_eq!(id_of(&one, &facts(Some(&policy))), "c92b6c3055451ebf");
    other.flows[0].port = 22;
    assert_ne!(
        id_of(&one, &facts(Some(&policy))),
        id_of(&other, &facts(Some(&policy)))
    );
}

#[test]
fn a_socket_refused_for_its_kind_is_a_finding_with_its_process() {
    let asked = |verdict, protocol| SocketRow {
        subject: 10,
        kind: SocketKind {
            family: 2,
            kind: 3,
            protocol,
        },
        verdict,
        rule: RULE_SOCKET_KIND,
        times: 3,
    };
    let mut record = record();
    record.sockets = vec![
        asked(Verdict::Deny, 1),
        asked(Verdict::WouldDeny, 132),
        asked(Verdict::BreakGlass, 58),
    ];
    let report = assemble(&record, &facts(None));
    let [denied] = of_kind(&report, "denied_socket")[..] else {
        panic!("{:#?}", report.findings)
    };
    assert!(denied.title.ends_with(" was refused a raw ICMP socket"));
    assert_eq!(denied.rule.as_deref(), Some("built-in: kind of socket"));
    assert!(!denied.subjects.is_empty());
    let [would] = of_kind(&report, "would_deny_socket")[..] else {
        panic!("{:#?}", report.findings)
    };
    assert_eq!(would.severity, Severity::Warning);
    assert!(would.title.ends_with(" would be refused a raw SCTP socket"));
    // Of nothing of this can it be said that it was reached for.
    assert_eq!(report.coverage.attempts, report.coverage.recorded);
}

#[test]
fn asking_for_the_way_is_no_finding_of_its_own() {
    let probe = |name, address, port| FlowRow {
        protocol: 17,
        port,
        bytes_sent: 0,
        ..flow(10, name, address, Verdict::Deny, 1)
    };
    let titles = |flows: Vec<FlowRow>| -> Vec<String> {
        let record = Snapshot { flows, ..record() };
        let report = assemble(&record, &facts(Some(&policy())));
        assert_eq!(report.flows.len(), record.flows.len(), "all are flows");
        let findings = of_kind(&report, "denied_dependency");
        findings.iter().map(|f| f.title.clone()).collect()
    };
    let real = || flow(10, 1, "10.0.0.1", Verdict::Deny, 1);
    let only = ["curl was refused github.com:443"];
    assert_eq!(titles(vec![probe(1, "10.0.0.2", 443), real()]), only);
    assert_eq!(titles(vec![probe(1, "10.0.0.2", 0), real()]), only);
    assert_eq!(titles(vec![probe(1, "10.0.0.2", 0)]), [""; 0]);
    // Datagrams in earnest.
    assert_eq!(titles(vec![probe(1, "10.0.0.2", 443)]), only);
    let both = [
        "curl was refused github.com:443",
        "curl was refused github.com:8125",
    ];
    assert_eq!(titles(vec![probe(1, "10.0.0.2", 8125), real()]), both);
}

#[test]
fn a_finding_names_the_script_and_not_its_interpreter() {
    let mut record = record();
    record.subjects[0].exe = "/usr/bin/python3.11".into();
    record.subjects[0].argv = ["python3", "/opt/schema-check"].map(String::from).into();
    record.flows = vec![flow(10, 1, "10.0.0.1", Verdict::Deny, 1)];
    let report = assemble(&record, &facts(None));
    assert_eq!(
        report.findings[0].title,
        "schema-check was refused github.com:443"
    );
}

#[test]
fn an_expired_waiver_is_a_finding_of_the_run() {
    let mut policy = policy();
    policy.expired = vec![Rule {
        owner: Some("team-db".into()),
        reason: Some("until the mirror has providers".into()),
        expires: Some("2026-01-31".into()),
        text: "waiver for api.github.com, process terraform".into(),
        file: "p.yaml".into(),
        line: 12,
        ..Rule::new(
            Effect::Allow,
            Target::Name(Pattern::parse("api.github.com").unwrap()),
        )
    }];
    let report = assemble(&record(), &facts(Some(&policy)));
    let [finding] = &of_kind(&report, "waiver_expired")[..] else {
        panic!("{:?}", report.findings)
    };
    assert_eq!(
        finding.title,
        "the waiver for api.github.com, process terraform expired on 2026-01-31"
    );
    assert_eq!(finding.owner.as_deref(), Some("team-db"));
    assert!(finding.fix.as_ref().unwrap().contains("p.yaml:12"));
    assert!(of_kind(&assemble(&record(), &facts(None)), "waiver_expired").is_empty());
}

#[test]
fn policies_that_took_over_and_broken_glass_are_told() {
    let report = assemble(&record(), &facts_of_change());
    let [reloaded] = &report.run.reloads[..] else {
        panic!("{:?}", report.run.reloads)
    };
    assert_eq!(reloaded.at, "2026-01-01T00:00:01.000000Z");
    assert_eq!(reloaded.policy, source("second.yaml"));
    assert_eq!(
        report.run.break_glass.as_deref(),
        Some("the mirror is down")
    );
    let [finding] = &of_kind(&report, "break_glass")[..] else {
        panic!("{:?}", report.findings)
    };
    assert!(finding.title.contains("the mirror is down"), "{finding:?}");
}

#[test]
fn what_refused_in_deed_is_known_before_the_report_is_made() {
    let refusing = |record: &Snapshot| {
        let mut ledger = Ledger::default();
        record.rows().for_each(|row| ledger.add(row));
        let mut rules: Vec<_> = ledger.refusing().collect();
        rules.sort_unstable();
        rules
    };
    let flow = |verdict, rule| flow(20, 0, "192.0.2.1", verdict, rule);
    let query = |verdict, rule| query(1, 20, verdict, rule);
    let delegate = |verdict, rule| DelegateRow {
        subject: 20,
        path: "/run/docker.sock".to_owned(),
        verdict,
        rule,
        attempts: 1,
        listener: None,
        reached: Reached::AsAsked,
    };
    let mut record = record();
    record.flows = vec![flow(Verdict::Deny, 1), flow(Verdict::WouldDeny, 2)];
    record.queries = vec![query(Verdict::Deny, 3), query(Verdict::BreakGlass, 4)];
    record.delegates = vec![delegate(Verdict::Deny, 5), delegate(Verdict::Waived, 6)];
    assert_eq!(refusing(&record), [1, 3, 5]);
}
