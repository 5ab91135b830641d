use std::borrow::Cow;

use blackstart_core::drill::Fault;
use blackstart_core::policy::{self, Rank};
use blackstart_core::report::{
    Applied, Attribution, Coverage, Delegate, Drill, Finding, Flow, Gap, HighestFrom, Kernel,
    Limit, Mode, Name, Outcome, PolicySource, Report, Run, RunLimits, SCHEMA_VERSION, Subject,
    Usage,
};

use super::*;

const POLICY: &str = "\
apiVersion: blackstart.dev/v1
kind: Policy
mode: enforce
rules:
  - deny: .github.com
    reason: github.com is served by this database
    fix: fetch from the internal mirror
  - deny: 10.20.0.0/16
";

const NOON: &str = "2026-05-04T12:00:00.000000Z";

fn report(guarded: Guarded) -> Report {
    Report {
        schema_version: SCHEMA_VERSION,
        run: Run {
            id: "0196a0c5-0000-7000-8000-000000000000".to_owned(),
            service: Some("mysql".to_owned()),
            owner: None,
            command: vec![
                "./deploy.sh".to_owned(),
                "--host".to_owned(),
                "db1".to_owned(),
            ],
            host: "db1".to_owned(),
            mode: Mode::Enforce,
            policy: Some(PolicySource {
                digest: "00".repeat(32),
                files: vec!["deploy.yaml".to_owned()],
            }),
            started: NOON.to_owned(),
            ended: Some(NOON.to_owned()),
            exit_code: Some(1),
            limits: RunLimits::default(),
            reloads: Vec::new(),
            break_glass: None,
            drill: None,
            attached: None,
            followed: Vec::new(),
            usage: Usage::default(),
            kernel: Kernel {
                release: "6.12".to_owned(),
                features: vec![],
            },
            guarded,
            addresses: vec![],
            resolvers: vec![],
            search: vec![],
            scripts: vec![],
        },
        subjects: vec![],
        names: vec![],
        flows: vec![],
        delegates: vec![],
        findings: vec![],
        coverage: Coverage::default(),
    }
}

fn subject(id: u64, parent: Option<u64>, argv: &[&str]) -> Subject {
    Subject {
        id,
        pid: 1000 + u32::try_from(id).unwrap(),
        parent,
        exe: argv[0].to_owned(),
        argv: argv.iter().map(|&word| word.to_owned()).collect(),
        argv_truncated: false,
        started: NOON.to_owned(),
        ended: None,
        exit: None,
        found: false,
    }
}

fn flow(
    subject: Option<u64>,
    name: Option<&str>,
    address: &str,
    port: u16,
    verdict: Verdict,
) -> Flow {
    Flow {
        subject,
        name: name.map(str::to_owned),
        address: address.parse().unwrap(),
        port,
        protocol: "tcp".to_owned(),
        verdict,
        rule: if verdict == Verdict::Allow {
            "default"
        } else {
            "deny 10.20.0.0/16"
        }
        .to_owned(),
        attempts: 1,
        outcome: if verdict == Verdict::Deny {
            Outcome::Refused
        } else {
            Outcome::Connected
        },
        bytes_sent: 60,
        first_seen: NOON.to_owned(),
        last_seen: NOON.to_owned(),
        attribution: Attribution::Exact,
    }
}

fn lookup(subject: Option<u64>, name: &str, verdict: Verdict) -> Name {
    Name {
        name: name.to_owned(),
        qtype: "A".to_owned(),
        subject,
        verdict,
        rule: if verdict == Verdict::Allow {
            "default"
        } else {
            "deny .github.com"
        }
        .to_owned(),
        queries: 2,
        first_seen: NOON.to_owned(),
        last_seen: NOON.to_owned(),
        addresses: vec![],
        chain: vec![],
    }
}

/// A deploy in GitHub's shape: a direct, a hidden and a transient dependency.
fn deploy(verdict: Verdict) -> Report {
    let mut report = report(Guarded::Yes);
    report.subjects = vec![
        subject(1, None, &["./deploy.sh", "--host", "db1"]),
        subject(2, Some(1), &["./deploy.sh", "--host", "db1"]),
        subject(
            3,
            Some(2),
            &["/usr/bin/curl", "-fsSL", "https://api.github.com/x"],
        ),
        subject(4, Some(1), &["/usr/bin/terraform", "apply"]),
        subject(5, Some(4), &["/opt/providers/provider_v1"]),
        subject(6, Some(1), &["/usr/bin/python3.11", "/opt/migrate.py"]),
    ];
    report.names = vec![
        lookup(Some(3), "api.github.com", verdict),
        lookup(Some(5), "api.github.com", verdict),
        lookup(Some(6), "migrations.internal", Verdict::Allow),
        lookup(Some(6), "unused.internal", Verdict::Allow),
    ];
    let mut resolver = flow(Some(6), None, "10.0.0.2", 53, Verdict::Allow);
    resolver.protocol = "udp".to_owned();
    resolver.outcome = Outcome::Unknown;
    resolver.attempts = 6;
    report.flows = vec![
        flow(
            Some(6),
            Some("migrations.internal"),
            "10.0.7.1",
            8080,
            Verdict::Allow,
        ),
        flow(
            Some(6),
            Some("migrations.internal"),
            "fd00::7",
            8080,
            Verdict::Allow,
        ),
        flow(Some(5), None, "10.20.3.4", 5432, verdict),
        flow(Some(1), None, "127.0.0.1", 3306, Verdict::Allow),
        resolver,
    ];
    report.findings = vec![Finding {
        id: "f1".to_owned(),
        kind: "denied_dependency".to_owned(),
        severity: Severity::Error,
        title: "curl was refused the lookup of api.github.com".to_owned(),
        owner: None,
        command: None,
        subjects: vec![3],
        rule: Some("deny .github.com".to_owned()),
        reason: Some("github.com is served by this database".to_owned()),
        fix: Some("fetch from the internal mirror".to_owned()),
        reaction: None,
        place: None,
        circle: None,
    }];
    report.coverage = Coverage {
        attempts: 14,
        recorded: 14,
        attributed: 13,
        ..Coverage::default()
    };
    report
}

fn told(report: &Report, written: &[&str]) -> String {
    let rules = policy::alone(POLICY, "deploy.yaml").unwrap().policy.rules;
    let written: Vec<String> = written.iter().map(|&path| path.to_owned()).collect();
    Telling {
        report,
        rules: &rules,
        explained: None,
        written: &written,
        paint: Paint::None,
    }
    .text()
}

#[test]
fn an_enforced_deploy() {
    insta::assert_snapshot!(told(&deploy(Verdict::Deny), &["/tmp/out.json"]));
}

#[test]
fn an_observed_deploy() {
    let mut report = deploy(Verdict::WouldDeny);
    report.delegates = vec![Delegate {
        subject: Some(4),
        path: "/run/docker.sock".to_owned(),
        listener_pid: Some(700),
        listener_exe: Some("/usr/bin/dockerd".to_owned()),
        reached: None,
        verdict: Verdict::Allow,
        rule: "default".to_owned(),
        attempts: 2,
    }];
    insta::assert_snapshot!(told(&report, &[]));
}

#[test]
fn nothing_outside() {
    let mut report = report(Guarded::Yes);
    report.flows = vec![flow(None, None, "::1", 80, Verdict::Allow)];
    insta::assert_snapshot!(told(&report, &[]));
}

#[test]
fn unguarded_says_so_first() {
    let mut report = report(Guarded::No);
    report.coverage.gaps = vec![Gap {
        kind: "privilege".to_owned(),
        detail: "programs cannot be loaded without CAP_BPF; run it with sudo".to_owned(),
        count: 0,
    }];
    insta::assert_snapshot!(told(&report, &[]));
}

#[test]
fn losses_gaps_and_other_findings_are_told() {
    let mut report = report(Guarded::Partly);
    report.findings = vec![Finding {
        id: "f2".to_owned(),
        kind: "left_cgroup".to_owned(),
        severity: Severity::Warning,
        title: "sudo (pid 12) left the run".to_owned(),
        owner: None,
        command: None,
        subjects: vec![],
        rule: None,
        reason: None,
        fix: Some("start it without a login session".to_owned()),
        reaction: None,
        place: None,
        circle: None,
    }];
    report.coverage = Coverage {
        attempts: 10,
        recorded: 8,
        lost: 2,
        attributed: 8,
        unsupervised_seconds: 3.25,
        gaps: vec![Gap {
            kind: "dns_over_tcp".to_owned(),
            detail: "lookups over TCP were not seen".to_owned(),
            count: 4,
        }],
    };
    insta::assert_snapshot!(told(&report, &[]));
}

#[test]
fn what_was_not_seen_is_said_once() {
    for kind in OF_COVERAGE {
        let mut report = report(Guarded::No);
        report.findings = vec![Finding {
            id: "f".to_owned(),
            kind: kind.to_owned(),
            severity: Severity::Warning,
            title: "said before".to_owned(),
            owner: None,
            command: None,
            subjects: vec![],
            rule: None,
            reason: None,
            fix: Some("look".to_owned()),
            reaction: None,
            place: None,
            circle: None,
        }];
        let text = told(&report, &[]);
        assert!(
            !text.contains("also") && !text.contains("said before"),
            "{text}"
        );
        report.findings[0].kind = "left_cgroup".to_owned();
        assert!(told(&report, &[]).contains("warning: said before"));
    }
}

#[test]
fn a_large_run_is_cut_and_says_so() {
    let mut report = report(Guarded::Yes);
    report.flows = (0..500u32)
        .map(|n| {
            let name = format!("host{n:03}.example.com");
            let address = format!("10.{}.{}.1", n / 256, n % 256);
            let verdict = if n % 2 == 0 {
                Verdict::Deny
            } else {
                Verdict::Allow
            };
            flow(None, Some(&name), &address, 443, verdict)
        })
        .collect();
    let text = told(&report, &["out.json"]);
    assert!(text.lines().count() < 100, "{text}");
    assert!(text.contains("… and 240 more; see the report"), "{text}");
    assert!(text.contains("… and 475 more; see the report"), "{text}");
    assert!(
        text.contains("reached for 500 outside destinations; 250 were refused"),
        "{text}"
    );
    assert!(told(&report, &[]).contains("--report FILE keeps them"));
}

#[test]
fn what_processes_choose_cannot_act_on_the_terminal() {
    let nasty = "\x1b]0;owned\x07\u{202e}\r\n";
    let mut report = deploy(Verdict::Deny);
    report.run.command = vec![nasty.to_owned()];
    for subject in &mut report.subjects {
        subject.exe = format!("/bin/{nasty}");
    }
    for name in &mut report.names {
        name.name = nasty.to_owned();
        name.rule = nasty.to_owned();
    }
    for flow in &mut report.flows {
        flow.name = Some(nasty.to_owned());
        flow.rule = nasty.to_owned();
        flow.protocol = nasty.to_owned();
    }
    for finding in &mut report.findings {
        finding.title = nasty.to_owned();
        finding.rule = Some(nasty.to_owned());
        finding.reason = Some(nasty.to_owned());
        finding.fix = Some(nasty.to_owned());
        finding.kind = "other".to_owned();
    }
    report.delegates = vec![Delegate {
        subject: Some(1),
        path: nasty.to_owned(),
        listener_pid: None,
        listener_exe: Some(nasty.to_owned()),
        reached: None,
        verdict: Verdict::Allow,
        rule: nasty.to_owned(),
        attempts: 1,
    }];
    report.coverage.gaps = vec![Gap {
        kind: nasty.to_owned(),
        detail: nasty.to_owned(),
        count: 1,
    }];
    let text = told(&report, &[nasty]);
    assert!(
        !text
            .chars()
            .any(|letter| letter.is_control() && letter != '\n'),
        "{text:?}"
    );
    assert!(!text.contains('\u{202e}'));
}

/// A resolver library that sorts addresses: a datagram socket is connected, and nothing sent.
fn probe(subject: u64, name: Option<&str>, address: &str, port: u16) -> Flow {
    Flow {
        protocol: "udp".to_owned(),
        outcome: Outcome::Unknown,
        bytes_sent: 0,
        ..flow(Some(subject), name, address, port, Verdict::Allow)
    }
}

#[test]
fn asking_for_the_way_does_not_double_the_list() {
    let mut report = report(Guarded::Yes);
    report.subjects = vec![subject(1, None, &["curl"]), subject(2, None, &["getent"])];
    let name = Some("mirror.internal");
    report.flows = vec![
        probe(1, name, "10.0.7.1", 80),
        probe(1, name, "fd00::7", 80),
        flow(Some(1), name, "10.0.7.1", 80, Verdict::Allow),
        // Nothing else tells of these two.
        probe(2, Some("only.internal"), "10.0.7.2", 0),
        Flow {
            verdict: Verdict::Deny,
            outcome: Outcome::Refused,
            ..probe(2, Some("denied.internal"), "10.0.7.3", 0)
        },
    ];
    let text = told(&report, &[]);
    assert!(
        text.contains("reached for 2 outside destinations\n"),
        "{text}"
    );
    let rows = |name: &str| -> Vec<&str> { text.lines().filter(|l| l.contains(name)).collect() };
    let [mirror] = rows("mirror.internal")[..] else {
        panic!("{text}")
    };
    assert!(
        mirror.contains("10.0.7.1:80  ") && mirror.contains("tcp       1         connected"),
        "{text}"
    );
    let [only] = rows("only.internal")[..] else {
        panic!("{text}")
    };
    assert!(only.contains("udp       1         probed"), "{text}");
    assert!(
        !text.contains("denied.internal") && !text.contains("sent"),
        "{text}"
    );
}

#[test]
fn what_one_chain_did_at_one_socket_is_one_row() {
    let contact = |subject, path: &str, attempts| Delegate {
        subject: Some(subject),
        path: path.to_owned(),
        listener_pid: None,
        listener_exe: None,
        reached: None,
        verdict: Verdict::Allow,
        rule: "default".to_owned(),
        attempts,
    };
    let resolver = |path: &str| Delegate {
        verdict: Verdict::Deny,
        rule: "built-in: resolver socket".to_owned(),
        ..contact(2, path, 4)
    };
    let mut report = report(Guarded::Yes);
    report.subjects = vec![
        subject(1, None, &["deploy.sh"]),
        subject(2, Some(1), &["docker"]),
        subject(3, Some(1), &["docker"]),
    ];
    report.delegates = vec![
        contact(2, "/run/docker.sock", 2),
        contact(3, "/run/docker.sock", 3),
        contact(1, "/run/docker.sock", 1),
        resolver("/var/run/nscd/socket"),
    ];
    let text = told(&report, &[]);
    let rows: Vec<_> = text.lines().filter(|l| l.contains("docker.sock")).collect();
    assert_eq!(
        rows,
        [
            "  /run/docker.sock  -       5         allowed  deploy.sh → docker",
            "  /run/docker.sock  -       1         allowed  deploy.sh",
        ]
    );
    // Every program of glibc tries nscd, whether there is one or not.
    assert!(
        !text.contains("nscd") && !text.contains("turned to DNS"),
        "{text}"
    );

    report.delegates = vec![resolver("/run/systemd/resolve/io.systemd.Resolve")];
    let text = told(&report, &[]);
    assert!(!text.contains("daemons outside"), "{text}");
    assert!(
        text.contains("\nlookups through systemd-resolved were turned to DNS\n"),
        "{text}"
    );
}

#[test]
fn what_no_run_sees_is_one_line() {
    let mut report = report(Guarded::Yes);
    let gap = |kind: &str| Gap {
        kind: kind.to_owned(),
        detail: "in words".to_owned(),
        count: 0,
    };
    report.coverage.gaps = STANDING_GAPS.map(|standing| gap(standing.kind)).into();
    report.coverage.gaps.push(gap("pins"));
    let text = told(&report, &[]);
    let gaps: Vec<_> = text.lines().filter(|l| l.starts_with("gap ")).collect();
    assert_eq!(gaps, ["gap       pins: in words"]);
    let [closing] = text
        .lines()
        .filter(|l| l.starts_with("not watched by this version: "))
        .collect::<Vec<_>>()[..]
    else {
        panic!("{text}")
    };
    for standing in STANDING_GAPS {
        assert!(closing.contains(standing.brief), "{closing}");
    }
}

#[test]
fn lineage_ends_though_the_record_goes_in_circles() {
    let subjects = [subject(1, Some(2), &["a"]), subject(2, Some(1), &["b"])];
    let lineage = |subjects: &[Subject]| Lineage::of(subjects.iter().map(Cow::Borrowed));
    assert_eq!(lineage(&subjects).chain(Some(1)), "b → a");
    assert_eq!(lineage(&subjects).chain(Some(9)), "unknown process");
    let deep: Vec<_> = (1..=9)
        .map(|id| {
            subject(
                id,
                (id > 1).then(|| id - 1),
                &[["p", "q"][(id % 2) as usize]],
            )
        })
        .collect();
    assert_eq!(lineage(&deep).chain(Some(9)), "q → … → p → q");
}

#[test]
fn advice_is_about_this_destination() {
    let mut report = report(Guarded::Yes);
    report.flows = ["a.example", "b.a.example"]
        .map(|name| Flow {
            rule: "default".to_owned(),
            ..flow(None, Some(name), "10.1.1.1", 443, Verdict::Deny)
        })
        .into();
    report.findings = ["b.a.example", "a.example"]
        .map(|name| Finding {
            id: name.to_owned(),
            kind: "denied_dependency".to_owned(),
            severity: Severity::Error,
            title: format!("curl was refused {name}:443"),
            owner: None,
            command: None,
            subjects: vec![],
            rule: Some("default".to_owned()),
            reason: None,
            fix: Some(format!("allow {name}")),
            reaction: None,
            place: None,
            circle: None,
        })
        .into();
    let found = Destinations::of(&report, &[], &Lineage::of(report.subjects()));
    let told: Vec<_> = found
        .refused
        .shown
        .iter()
        .map(|refusal| (refusal.what.as_str(), refusal.advice.fix.as_deref()))
        .collect();
    assert_eq!(
        told,
        [
            ("a.example", Some("allow a.example")),
            ("b.a.example", Some("allow b.a.example"))
        ]
    );
}

fn limit<T>(value: T, applied: Applied, reached: bool) -> Option<Limit<T>> {
    Some(Limit {
        value,
        applied,
        reached,
    })
}

#[test]
fn use_is_shown_against_each_limit() {
    let mut report = report(Guarded::Yes);
    assert!(!told(&report, &[]).contains("limits "));
    report.run.limits = RunLimits {
        memory: limit(2 << 30, Applied::V2, false),
        cpu: limit(1.5, Applied::V2, true),
        pids: limit(512, Applied::V1, false),
        time: limit(1800.0, Applied::Supervisor, false),
    };
    report.run.usage = Usage {
        cpu_seconds: Some(12.34),
        peak_memory: Some(3 << 28),
        wall_seconds: Some(182.4),
        throttled_seconds: Some(3.25),
        highest_pids: Some(31),
        highest_pids_from: Some(HighestFrom::Kernel),
        ..Usage::default()
    };
    let line = |report: &Report| {
        let text = told(report, &[]);
        let line = text.lines().find(|line| line.starts_with("limits "));
        line.unwrap().to_owned()
    };
    assert_eq!(
        line(&report),
        "limits    memory 768MiB of 2GiB; cpu 12.3 s, waited 3.2 s for it, at most 1.5 at a time; pids 31 of 512; \
         time 3m2s of 30m"
    );
    // To be held back is not to be ended.
    assert!(
        told(&report, &[])
            .lines()
            .next()
            .unwrap()
            .ends_with("outside this host")
    );
    report.run.usage = Usage {
        wall_seconds: Some(2.04),
        highest_pids: Some(31),
        highest_pids_from: Some(HighestFrom::Sampled),
        ..Usage::default()
    };
    report.run.limits.memory = limit(2 << 30, Applied::No, false);
    report.run.limits.cpu = limit(1.5, Applied::No, false);
    assert_eq!(
        line(&report),
        "limits    memory 2GiB not applied; cpu 1.5 not applied; pids 31 (sampled) of 512; time 2.0s of 30m"
    );
}

#[test]
fn the_first_line_says_which_limit_ended_something() {
    for guarded in [Guarded::Yes, Guarded::No] {
        let mut report = report(guarded);
        report.run.limits.time = limit(90.0, Applied::Supervisor, true);
        report.run.limits.memory = limit(64 << 20, Applied::V1, true);
        let text = told(&report, &[]);
        let first = text.lines().next().unwrap();
        assert!(
            first.contains("; memory limit of 64MiB reached; time limit of 1m30s reached"),
            "{first}"
        );
    }
}

const DERIVED: &str = "\
apiVersion: blackstart.dev/v1
kind: Policy
mode: enforce
protect: [github]
";

const CATALOG: &str = "\
apiVersion: blackstart.dev/v1
kind: Service
name: github
owner: team-forge
provides: [.github.com]
---
apiVersion: blackstart.dev/v1
kind: Service
name: migrations
owner: team-db
provides: [migrations.internal]
needs: [{ service: github, for: run }]
";

fn derived() -> Vec<Rule> {
    let catalog = blackstart_core::catalog::read(&[("catalog.yaml", CATALOG)]);
    assert!(!catalog.partial, "{:?}", catalog.diagnostics);
    let layer = policy::Layer {
        guardrail: false,
        checked: false,
        documents: vec![policy::parse(DERIVED, "deploy.yaml").unwrap().document],
    };
    let given = policy::Given {
        layers: vec![layer],
        catalog: Some(&catalog),
        today: Day::parse("2026-05-04").unwrap(),
        mode: None,
        service: None,
        all_final: false,
    };
    policy::resolve(given).unwrap().policy.rules
}

#[test]
fn a_derived_refusal_says_from_whom_and_by_which_path() {
    let rules = derived();
    let mut report = report(Guarded::Yes);
    let rule = rules
        .iter()
        .find(|rule| rule.text.contains("migrations.internal"));
    let mut refused = lookup(None, "migrations.internal", Verdict::Deny);
    refused.rule = rule.unwrap().text.to_string();
    report.names = vec![refused];
    let text = Telling {
        report: &report,
        rules: &rules,
        explained: None,
        written: &[],
        paint: Paint::None,
    }
    .text();
    insta::assert_snapshot!(text);
}

#[test]
fn what_is_suggested_as_a_waiver_is_one() {
    let text = told(&deploy(Verdict::Deny), &[]);
    let pasted: Vec<&str> = text
        .lines()
        .skip_while(|line| !line.starts_with("to waive"))
        .skip(1)
        .take(3)
        .collect();
    let pasted = format!("{POLICY}waivers:\n{}\n", pasted.join("\n"));
    let policy = policy::alone(&pasted, "deploy.yaml").unwrap().policy;
    let waiver = policy.rules.last().unwrap();
    assert_eq!(&*waiver.text, "waiver for api.github.com");
    assert_eq!(waiver.expires.as_deref(), Some("2026-05-18"));
    assert_eq!(text.matches("to waive").count(), 1);
}

#[test]
fn what_is_final_and_what_is_an_address_is_not_waived() {
    let mut rules = policy::alone(POLICY, "deploy.yaml").unwrap().policy.rules;
    rules[0].rank = Rank::Final;
    let report = deploy(Verdict::Deny);
    let text = Telling {
        report: &report,
        rules: &rules,
        explained: None,
        written: &[],
        paint: Paint::None,
    }
    .text();
    assert!(!text.contains("to waive"), "{text}");
    assert!(text.contains("    final no waiver"), "{text}");
}

#[test]
fn a_drill_says_what_it_showed() {
    let mut report = report(Guarded::Yes);
    report.subjects = vec![
        subject(1, None, &["./deploy.sh"]),
        subject(2, Some(1), &["curl", "http://github.com/"]),
    ];
    report.run.usage.wall_seconds = Some(62.04);
    let drill = Drill {
        down: vec!["github".to_owned(), "mirror".to_owned()],
        fault: Fault::Blackhole,
        outcome: DrillOutcome::Hung,
        attempts: 3,
        subjects: vec![2, 1],
        usual_seconds: Some(2.0),
        usual_runs: 4,
        lost_seconds: Some(60.04),
    };
    report.run.drill = Some(drill.clone());
    let text = told(&report, &[]);
    assert!(
        text.contains(
            "drill github, mirror (what is sent is lost): hung; 3 attempts to reach what is down\n    in    deploy.sh → curl\n    time  62.0 s; usually 2.0 s (4 runs without a drill): 60.0 s more\n"
        ),
        "{text}"
    );
    for (code, words) in [
        (
            Some(0),
            "not known: it succeeded, and not all of what it reached for was seen;",
        ),
        (None, "nobody knows how it ended;"),
    ] {
        report.run.exit_code = code;
        report.run.drill = Some(Drill {
            outcome: DrillOutcome::Unknown,
            ..drill.clone()
        });
        let text = told(&report, &[]);
        assert!(text.contains(words), "{text}");
    }
    report.run.drill = Some(Drill {
        outcome: DrillOutcome::Managed,
        attempts: 0,
        subjects: vec![],
        usual_seconds: None,
        usual_runs: 0,
        lost_seconds: None,
        ..drill
    });
    let text = told(&report, &[]);
    assert!(
        text.contains("managed; it reached for nothing that is down"),
        "{text}"
    );
    assert!(
        text.contains("no run of the same command without a drill"),
        "{text}"
    );
}
