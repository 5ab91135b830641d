use std::net::{IpAddr, Ipv4Addr};

use blackstart_core::report::{
    Attribution, Circle, Coverage, Finding, Flow, Gap, Guarded, Kernel, Mode, Outcome, Report, Run,
    RunLimits, SCHEMA_VERSION, STANDING_GAPS, Severity, Step, Subject, Usage, Verdict,
};

use super::*;

fn at(seconds: u32) -> String {
    format!(
        "2026-05-04T12:{:02}:{:02}.000000Z",
        seconds / 60,
        seconds % 60
    )
}

fn report(subjects: u64, flows: u32) -> Report {
    let subject = |id: u64| Subject {
        id,
        pid: u32::try_from(id).unwrap() + 1000,
        parent: (id > 1).then_some(id / 2),
        exe: "/usr/bin/curl".to_owned(),
        argv: vec!["curl".to_owned(), format!("https://n{id}.example/")],
        argv_truncated: false,
        started: at(1),
        ended: Some(at(50)),
        exit: Some(0),
        found: false,
    };
    let flow = |number: u32| Flow {
        subject: Some(1 + u64::from(number) % subjects),
        name: Some(format!("n{number}.example")),
        address: IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number)),
        port: 443,
        protocol: "tcp".to_owned(),
        verdict: if number == flows - 1 {
            Verdict::Deny
        } else {
            Verdict::Allow
        },
        rule: "default".to_owned(),
        attempts: u64::from(number % 7) + 1,
        outcome: Outcome::Connected,
        bytes_sent: 1_400,
        first_seen: at(2),
        last_seen: at(40),
        attribution: Attribution::Exact,
    };
    Report {
        schema_version: SCHEMA_VERSION,
        run: Run {
            id: "0196a0c5-0000-7000-8000-000000000000".to_owned(),
            service: Some("mysql".to_owned()),
            owner: None,
            command: vec!["./deploy.sh".to_owned()],
            host: "db1".to_owned(),
            mode: Mode::Enforce,
            policy: None,
            started: at(0),
            ended: Some(at(60)),
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
            guarded: Guarded::Yes,
            addresses: vec![],
            resolvers: vec![],
            search: vec![],
            scripts: vec![],
        },
        subjects: (1..=subjects).map(subject).collect(),
        names: vec![],
        flows: (0..flows).map(flow).collect(),
        delegates: vec![],
        findings: vec![],
        coverage: Coverage::default(),
    }
}

fn page(report: &Report) -> String {
    let mut out = Vec::new();
    RunPage {
        report,
        rules: &[],
        catalog: None,
        protect: &[],
        whole: &|| panic!("the whole report is not wanted without a catalog"),
    }
    .write(&mut out)
    .unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn nothing_of_a_stranger_is_markup() {
    let nasty = "<i class=x onload=y>\"'&</script>\u{202e}\u{7}\n{{ 7*7 }}";
    let mut report = report(1, 1);
    report.run.host = nasty.to_owned();
    report.run.command[0] = nasty.to_owned();
    report.run.kernel.release = nasty.to_owned();
    report.subjects[0].exe = nasty.to_owned();
    report.subjects[0].argv[1] = nasty.to_owned();
    report.flows[0].rule = nasty.to_owned();
    report.flows[0].protocol = nasty.to_owned();
    report.run.service = Some(nasty.to_owned());
    report.run.owner = Some(nasty.to_owned());
    report.run.break_glass = Some(nasty.to_owned());
    report.flows[0].name = Some(nasty.to_owned());
    report.coverage.gaps = vec![Gap {
        kind: nasty.to_owned(),
        detail: nasty.to_owned(),
        count: 1,
    }];
    report.findings = vec![Finding {
        id: nasty.to_owned(),
        kind: "loop".to_owned(),
        severity: Severity::Error,
        title: nasty.to_owned(),
        owner: Some(nasty.to_owned()),
        command: Some(vec![nasty.to_owned()]),
        subjects: vec![1],
        rule: Some(nasty.to_owned()),
        reason: Some(nasty.to_owned()),
        fix: Some(nasty.to_owned()),
        reaction: None,
        place: None,
        circle: Some(Circle {
            kind: nasty.to_owned(),
            steps: vec![Step {
                from: nasty.to_owned(),
                to: "github".to_owned(),
                phase: nasty.to_owned(),
                evidence: vec![nasty.to_owned()],
            }],
            shortest: true,
            component: vec![nasty.to_owned()],
        }),
    }];
    let page = page(&report);
    assert!(!page.contains("<i class=x"), "{page}");
    assert!(!page.contains(['\u{202e}', '\u{7}']));
    assert_eq!(page.matches("</script>").count(), 1);
    // Shown nevertheless, wherever it stands; the brackets that a template would act on, too.
    let shown = page.matches("&#60;i class=x onload=y&#62;").count();
    assert!(shown > 20, "{shown}");
    assert!(page.contains("\\u{202e}\\x07\\n{{ 7*7 }}"), "{page}");
}

#[test]
fn a_page_allows_its_own_style_and_script_and_nothing_else() {
    let page = page(&report(1, 1));
    let between = |before: &str, after: &str| {
        let (_, rest) = page.split_once(before).unwrap();
        rest.split_once(after).unwrap().0
    };
    let policy = between("Content-Security-Policy\" content=\"", "\">");
    assert!(policy.starts_with("default-src 'none'; "), "{policy}");
    for (element, source) in [("style", "style-src"), ("script", "script-src")] {
        let text = between(&format!("<{element}>"), &format!("</{element}>"));
        assert!(
            policy.contains(&format!("{source} '{}'", hash(text))),
            "{policy}"
        );
        assert_eq!(page.matches(&format!("<{element}")).count(), 1);
    }
    // The known answer of an empty text: that of the standard.
    assert_eq!(
        hash(""),
        "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
    );
    for asked in [
        "http://", "https://", " style=", "<img", "<link", "@import", "url(",
    ] {
        let own = page.matches(asked).count()
            - page.matches("url(#").count() * usize::from(asked == "url(");
        let of_argv = page.matches("https://n1.example/").count();
        assert_eq!(
            own,
            if asked == "https://" { of_argv } else { 0 },
            "{asked}"
        );
    }
}

#[test]
fn what_a_page_does_not_hold_it_says() {
    let page = page(&report(10_500, 5_300));
    assert!(
        page.contains("300 more are not shown here; the JSON report has them. What was refused")
    );
    assert!(page.contains(
        "500 more are not shown here; the JSON report has them.</p>\n<table id=\"t-processes\""
    ));
    assert!(
        page.contains("<span class=\"count\">5300</span>"),
        "all are counted"
    );
    // What was refused is never what is left out, however seldom it was tried.
    assert!(page.contains("n5299.example"));
}

#[test]
fn gaps_are_said_plainly() {
    let mut whole = report(1, 1);
    whole.coverage = Coverage {
        attempts: 1_200,
        recorded: 1_100,
        lost: 100,
        attributed: 1_000,
        unsupervised_seconds: 2.5,
        gaps: STANDING_GAPS
            .iter()
            .map(|gap| Gap {
                kind: gap.kind.to_owned(),
                detail: gap.detail.to_owned(),
                count: 0,
            })
            .collect(),
    };
    let text = page(&whole);
    assert!(text.contains("1,100 of 1,200 attempts were recorded, 1,000 of them with process and name. 100 were lost: seen, counted, and not recorded. For 2.5 s the run had no supervisor"), "{text}");
    assert!(text.contains("Of every run of this version"));
    assert!(text.contains("No catalog was given"));
    whole.run.guarded = Guarded::No;
    assert!(
        page(&whole).contains("The run was not guarded: nothing of what it reached for was seen")
    );
}
