//! What runs show: needs with their evidence, loops and their kinds, experiments, outages, findings.

mod lock;
mod named;
mod story;

use blackstart_core::catalog::{Phase, Strength};
use blackstart_core::graph::findings::{GraphFinding, findings};
use blackstart_core::graph::impact::{Impact, Outcome, State, impact};
use blackstart_core::graph::loops::{Loop, LoopKind, loops};
use blackstart_core::graph::recovery::Recovery;
use blackstart_core::graph::{Evidence, Graph, Import, Input, Kind, Observed, build};
use blackstart_core::report::{Followed, FollowedUntil, Guarded, Mode, Report, Verdict};
use proptest::prelude::*;
use story::{Story, catalog, deploy, example, id, joined, loops_of, time};

/// `mysql → github → mysql: hidden`
fn shown(graph: &Graph, found: &[Loop]) -> Vec<String> {
    found
        .iter()
        .map(|it| {
            let steps: String = it
                .steps
                .iter()
                .map(|step| format!(" → {}", graph.node(graph.need(*step).to).name))
                .collect();
            let kinds: Vec<_> = it.kinds.iter().map(|kind| kind.as_str()).collect();
            let kind = it.kind.map_or("declared", LoopKind::as_str);
            format!("{}{steps}: {kind} {kinds:?}", graph.node(it.deploys).name)
        })
        .collect()
}

#[test]
fn the_three_kinds() {
    let catalog = example();
    let story = deploy()
        .process(
            1,
            "/usr/bin/curl",
            &["curl", "https://github.com/x/releases/lint"],
        )
        .process(1, "/opt/tool/check", &["/opt/tool/check", "my.cnf"])
        .process(
            1,
            "/usr/bin/curl",
            &["curl", "http://migrations.internal:8080/run"],
        )
        .process(1, "/usr/bin/curl", &["curl", "http://mirror.internal/x"])
        .reaches(2, "github.com", "192.0.2.1", 443)
        .reaches(3, "api.github.com", "192.0.2.1", 443)
        .reaches(4, "migrations.internal", "192.0.2.2", 8080)
        .reaches(5, "mirror.internal", "192.0.2.3", 80);
    let graph = joined(&catalog, &[&story]);
    let found = loops_of(&graph);
    assert_eq!(
        shown(&graph, &found),
        [
            "mysql → github → mysql: direct [\"direct\", \"hidden\"]",
            "mysql → migrations → github → mysql: transient [\"transient\"]",
        ]
    );
    assert_eq!(found[0].component, found[1].component);
    let recovery = Recovery::of(&graph);
    let components: Vec<Vec<_>> = recovery
        .components()
        .map(|c| c.iter().map(|id| graph.node(*id).name.as_str()).collect())
        .collect();
    assert_eq!(components, [["github", "migrations", "mysql"]]);
    // Evidence for each step.
    let first = graph.need(found[0].steps[0]);
    let contacts: Vec<_> = first
        .contacts()
        .map(|c| {
            (
                c.destination.as_str(),
                c.chain.join(" < "),
                c.named,
                c.attempts,
            )
        })
        .collect();
    assert_eq!(
        contacts,
        [
            (
                "api.github.com:443",
                "check < deploy.sh".to_owned(),
                false,
                1
            ),
            ("github.com:443", "curl < deploy.sh".to_owned(), true, 1),
        ]
    );
    assert!(graph.need(found[0].steps[1]).is_declared());
}

#[test]
fn what_a_unit_needs_that_the_run_restarts_is_the_deployments() {
    let catalog = example();
    let followed = |asked: Option<&[&str]>| {
        let asked = asked.map(|paths| paths.iter().map(|path| (*path).to_owned()).collect());
        let unit = Followed {
            unit: "mysql.service".to_owned(),
            subject: Some(2),
            cgroup: "/system.slice/mysql.service".to_owned(),
            asked,
            started: time(2),
            ended: Some(time(9)),
            until: Some(FollowedUntil::Active),
            at_once: false,
        };
        let story = deploy()
            .process(0, "unit:mysql.service", &[])
            .process(2, "/usr/bin/curl", &["curl", "-s"])
            .reaches(3, "github.com", "192.0.2.1", 443)
            .asks(3, "migrations.internal", Verdict::Allow, &[])
            .with(|report| report.run.followed = vec![unit.clone()]);
        let graph = joined(&catalog, &[&story]);
        let found = loops_of(&graph);
        let chain = found.first().map(|circle| {
            let first = graph.need(circle.steps[0]);
            first.contacts().next().unwrap().chain.join(" < ")
        });
        (shown(&graph, &found), chain)
    };
    let (loops, chain) = followed(Some(&["/run/systemd/private"]));
    assert_eq!(
        loops,
        [
            "mysql → github → mysql: hidden [\"hidden\"]",
            "mysql → migrations → github → mysql: transient [\"transient\"]",
        ]
    );
    assert_eq!(chain.as_deref(), Some("curl < unit:mysql.service"));
    // Where nobody can tell, it is taken for asked for.
    assert_eq!(followed(None).0, loops);
    // It started by itself: that is told elsewhere.
    assert_eq!(followed(Some(&[])).0, [""; 0]);
}

#[test]
fn protected_services_decide_what_is_transient() {
    // Two ways from web: one over the protected github, one over nothing that is protected.
    let catalog = catalog(&[
        "name: mysql",
        "name: github\nneeds: [mysql]",
        "name: cache\nneeds: [mysql]",
        "name: web\nprovides: [web.internal]\nneeds: [github]",
        "name: shop\nprovides: [shop.internal]\nneeds: [github, cache]",
    ]);
    let story = deploy()
        .process(1, "/usr/bin/tool", &["tool"])
        .reaches(2, "web.internal", "192.0.2.1", 80)
        .reaches(2, "shop.internal", "192.0.2.1", 80);
    let graph = joined(&catalog, &[&story]);
    let recovery = Recovery::of(&graph);
    let kinds = |protect: &[&str]| {
        let protect: Vec<_> = protect.iter().map(|name| id(&graph, name)).collect();
        let found = loops(&graph, &recovery, &protect);
        // The one to shop, then the one to web.
        found.iter().map(|l| l.kind.unwrap()).collect::<Vec<_>>()
    };
    use LoopKind::{Hidden, Transient};
    assert_eq!(kinds(&[]), [Transient, Transient]);
    assert_eq!(kinds(&["github"]), [Hidden, Transient]);
    assert_eq!(kinds(&["github", "cache"]), [Transient, Transient]);
    // The ends are not between.
    assert_eq!(kinds(&["mysql", "web", "shop"]), [Hidden, Hidden]);
}

#[test]
fn its_own_instance_is_self() {
    let catalog = example();
    let story = deploy()
        .process(1, "/usr/bin/mysqladmin", &["mysqladmin", "ping"])
        .reaches(2, "", "127.0.0.1", 3306)
        .reaches(2, "localhost", "::1", 3306)
        .reaches(2, "", "::ffff:127.0.0.1", 9999)
        .reaches(2, "", "10.20.0.4", 3306)
        .opens(2, "/run/mysqld.sock")
        .opens(2, "/run/dbus/system_bus_socket");
    let graph = joined(&catalog, &[&story]);
    assert_eq!(loops_of(&graph), []);
    let selves: Vec<_> = graph
        .selves()
        .map(|(_, c)| c.destination.as_str())
        .collect();
    assert_eq!(
        selves,
        [
            "10.20.0.4:3306",
            "127.0.0.1:3306",
            "[::ffff:127.0.0.1]:9999",
            "localhost:3306",
            "unix:/run/mysqld.sock",
        ]
    );
    assert!(graph.needs_of(id(&graph, "mysql")).next().is_none());
    // The same service on another host is a loop: one that is broken everywhere cannot be mended from there.
    let other = deploy().reaches(1, "", "10.20.0.5", 3306);
    let graph = joined(&catalog, &[&other]);
    assert_eq!(
        shown(&graph, &loops_of(&graph)),
        ["mysql → mysql: hidden [\"hidden\"]"]
    );
    // What another service provides on this host is a need like any other.
    let web = Story::of("mirror", &["./d.sh"])
        .process(0, "./d.sh", &["/bin/sh", "./d.sh"])
        .opens(1, "/run/mysqld.sock")
        .reaches(1, "", "10.20.0.4", 3306);
    let graph = joined(&catalog, &[&web]);
    let needs: Vec<_> = graph.needs_of(id(&graph, "mirror")).collect();
    assert_eq!(needs.len(), 1);
    assert_eq!(needs[0].1.evidence.len(), 2);
}

#[test]
fn who_a_contact_leads_to() {
    let catalog = example();
    let story = deploy()
        // Over an alias; by lookup alone, refused; by an address that nobody provides.
        .asks(
            1,
            "releases.example",
            Verdict::Allow,
            &["cdn.example", "objects.github.com"],
        )
        .reaches(1, "releases.example", "192.0.2.1", 443)
        .asks(1, "mirror.internal", Verdict::Deny, &[])
        .asks(1, "telemetry.example", Verdict::WouldDeny, &[])
        .asks(1, "only-asked.example", Verdict::Allow, &[])
        .reaches(0, "", "2001:db8::9", 25)
        .reaches(1, "pypi.org", "192.0.2.7", 443)
        .reaches(1, "pypi.org", "192.0.2.8", 443)
        .with(|report| {
            let mut probe = report.flows[0].clone();
            probe.name = Some("migrations.internal".to_owned());
            (probe.protocol, probe.port, probe.bytes_sent) = ("udp".to_owned(), 0, 0);
            let mut resolver = report.flows[0].clone();
            (resolver.name, resolver.port) = (None, 53);
            resolver.address = "192.0.2.53".parse().unwrap();
            resolver.rule = "built-in: own resolver".to_owned();
            let mut own = resolver.clone();
            own.rule = "default".to_owned();
            let mut no_resolver = own.clone();
            no_resolver.address = "198.51.100.9".parse().unwrap();
            report.run.resolvers = vec![own.address];
            report.flows.extend([probe, resolver, own, no_resolver]);
            let mut search = report.names[1].clone();
            search.name = "github.com.github.com".to_owned();
            search.rule = "built-in: search list".to_owned();
            report.names.push(search);
        });
    let graph = joined(&catalog, &[&story]);
    let needs: Vec<_> = graph
        .needs_of(id(&graph, "mysql"))
        .map(|(_, need)| {
            let contact = need.contacts().next().unwrap();
            let to = graph.node(need.to);
            (
                to.name.as_str(),
                to.kind,
                contact.destination.as_str(),
                contact.attempts,
            )
        })
        .collect();
    assert_eq!(
        needs,
        [
            ("github", Kind::Service, "releases.example:443", 1),
            ("mirror", Kind::Service, "mirror.internal", 2),
            ("198.51.100.9:53", Kind::Destination, "198.51.100.9:53", 1),
            ("[2001:db8::9]:25", Kind::Destination, "[2001:db8::9]:25", 1),
            ("pypi.org:443", Kind::Destination, "pypi.org:443", 2),
            (
                "telemetry.example",
                Kind::Destination,
                "telemetry.example",
                2
            ),
        ]
    );
    let pypi = graph.needs_of(id(&graph, "mysql")).nth(4).unwrap().1;
    let contact = pypi.contacts().next().unwrap();
    assert_eq!(
        (&contact.first_seen, &contact.last_seen),
        (&time(4), &time(5))
    );
}

#[test]
fn one_need_has_all_its_evidence() {
    let catalog = catalog(&[
        "name: mysql\nneeds: [{service: github, for: deploy, strength: soft}]",
        "name: github\nprovides: [.github.com]\nneeds: [mysql]",
    ]);
    let story = deploy().reaches(1, "github.com", "192.0.2.1", 443);
    let later = deploy()
        .reaches(1, "api.github.com", "192.0.2.1", 443)
        .with(|report| {
            report.run.id = "later".to_owned();
            report.run.started = time(30);
        });
    let nobody = deploy().with(|report| {
        report.run.id = "nobody".to_owned();
        report.run.service = None;
    });
    let import = Import {
        from: "mysql".to_owned(),
        to: "github".to_owned(),
        phase: Phase::Deploy,
        format: "jaeger".to_owned(),
        place: catalog.services()[0].place.clone(),
    };
    let stranger = Import {
        from: "batch".to_owned(),
        to: "mysql".to_owned(),
        ..import.clone()
    };
    // The same run twice, and in no order.
    let runs = [&later, &story, &nobody, &later].map(|story| Observed {
        report: &story.0,
        phase: Phase::Deploy,
    });
    let graph = build(&Input {
        catalog: &catalog,
        runs: &runs,
        imports: &[import, stranger],
    });
    let need = graph
        .find_need(id(&graph, "mysql"), id(&graph, "github"), Phase::Deploy)
        .unwrap();
    let evidence: Vec<_> = graph
        .need(need)
        .evidence
        .iter()
        .map(|evidence| match evidence {
            Evidence::Declared { place, .. } => place.to_string(),
            Evidence::Imported { format, .. } => format.clone(),
            Evidence::Observed(contact) => {
                format!("{} {}", contact.run, contact.destination)
            }
        })
        .collect();
    assert_eq!(
        evidence,
        [
            "c.yaml:5:19",
            "jaeger",
            "run-of-mysql github.com:443",
            "later api.github.com:443",
        ]
    );
    assert_eq!(graph.node(id(&graph, "batch")).kind, Kind::Unlisted);
    assert_eq!(graph.unassigned(), ["nobody"]);
    assert_eq!(graph.find("github.com:443"), None);
}

#[test]
fn a_refusal_is_an_experiment() {
    let catalog = example();
    let refused = |change: &dyn Fn(&mut Report)| {
        let story = deploy()
            .process(1, "/usr/bin/curl", &["curl", "https://github.com/x"])
            .meets(2, "github.com", "192.0.2.1", 443, Verdict::Deny)
            .with(|report| {
                report.run.mode = Mode::Enforce;
                change(report);
            });
        let graph = joined(&catalog, &[&story]);
        graph
            .needs_of(id(&graph, "mysql"))
            .next()
            .unwrap()
            .1
            .shown()
    };
    let ends = |report: &mut Report, run: i32, script: i32, curl: i32| {
        report.run.exit_code = Some(run);
        report.subjects[0].exit = Some(script);
        report.subjects[1].exit = Some(curl);
    };
    use Strength::{Hard, Soft};
    // The command did well; a finding that gates it is not its own failure.
    assert_eq!(refused(&|r| ends(r, 0, 0, 7)), Some(Soft));
    assert_eq!(refused(&|r| ends(r, 120, 0, 7)), Some(Soft));
    // The failure went all the way up.
    assert_eq!(refused(&|r| ends(r, 1, 1, 7)), Some(Hard));
    assert_eq!(refused(&|r| ends(r, 124, 143, 143)), Some(Hard));
    // It failed for something else: what was refused did not mind.
    assert_eq!(refused(&|r| ends(r, 1, 1, 0)), None);
    assert_eq!(refused(&|r| ends(r, 125, 1, 7)), None);
    // An end that was not seen shows nothing.
    assert_eq!(
        refused(&|r| {
            ends(r, 1, 1, 7);
            r.subjects[1].exit = None;
        }),
        None
    );
    assert_eq!(
        refused(&|r| {
            ends(r, 1, 1, 7);
            r.run.exit_code = None;
        }),
        None
    );
    // curl replaced another image of the same process, which has no end of its own.
    assert_eq!(
        refused(&|r| {
            ends(r, 1, 1, 7);
            let mut replaced = r.subjects[1].clone();
            (replaced.id, replaced.exit) = (3, None);
            r.subjects[1].parent = Some(3);
            r.subjects.push(replaced);
        }),
        Some(Hard)
    );
    // Nothing was refused.
    assert_eq!(
        refused(&|r| {
            ends(r, 1, 1, 7);
            r.run.mode = Mode::Observe;
            r.flows[0].verdict = Verdict::WouldDeny;
        }),
        None
    );
    // A report that contradicts itself, with processes that are each other's parents.
    assert_eq!(
        refused(&|r| {
            ends(r, 1, 1, 7);
            r.subjects[0].parent = Some(2);
        }),
        Some(Hard)
    );
    assert_eq!(
        refused(&|r| {
            ends(r, 1, 1, 7);
            r.flows[0].subject = Some(99);
        }),
        None
    );
}

#[test]
fn the_latest_experiment_counts_and_goes_before_a_claim() {
    let catalog = catalog(&[
        "name: mysql\nneeds: [{service: github, for: deploy, strength: hard}]",
        "name: github\nprovides: [.github.com]",
    ]);
    let run = |second: u32, exit: i32| {
        deploy()
            .meets(1, "github.com", "192.0.2.1", 443, Verdict::Deny)
            .with(move |report| {
                report.run.mode = Mode::Enforce;
                report.run.id = format!("at {second}");
                report.run.started = time(second);
                report.run.exit_code = Some(exit);
                report.subjects[0].exit = Some(exit);
            })
    };
    let need = |stories: &[&Story]| {
        let graph = joined(&catalog, stories);
        let need = graph.needs_of(id(&graph, "mysql")).next().unwrap().1;
        (need.claimed(), need.shown(), need.strength())
    };
    use Strength::{Hard, Soft};
    assert_eq!(need(&[]), (Some(Hard), None, Some(Hard)));
    let (failed, managed) = (run(1, 1), run(2, 0));
    assert_eq!(
        need(&[&managed, &failed]),
        (Some(Hard), Some(Soft), Some(Soft))
    );
    let failed_again = run(3, 1);
    assert_eq!(need(&[&failed_again, &managed, &failed]).1, Some(Hard));
}

#[test]
fn being_led_to_another_resolver_shows_nothing() {
    let catalog = catalog(&[
        "name: mysql",
        "name: resolved\nprovides: [\"unix:/run/systemd/resolve/io.systemd.Resolve\"]",
    ]);
    let shown = |rule: &str| {
        let path = "/run/systemd/resolve/io.systemd.Resolve";
        let story = deploy().opens_judged(1, path, Verdict::Deny, rule);
        let graph = joined(
            &catalog,
            &[&story.with(|report| report.run.exit_code = Some(0))],
        );
        let need = graph.needs_of(id(&graph, "mysql")).next().unwrap().1;
        need.shown()
    };
    // Who is refused it by a rule goes without; who is by Blackstart itself asks by DNS.
    assert_eq!(shown("policy.yaml:3"), Some(Strength::Soft));
    assert_eq!(shown("built-in: resolver socket"), None);
}

#[test]
fn soft_needs_are_cut_first() {
    let catalog = catalog(&[
        "name: a\nneeds: [{service: b, strength: hard}]",
        "name: b\nneeds: [c]",
        "name: c\nneeds: [{service: a, strength: soft}]",
        // The other circle, in which one need was shown to be soft.
        "name: mysql\nneeds: [{service: github, for: deploy, strength: hard}]",
        "name: github\nprovides: [.github.com]\nneeds: [{service: mysql, strength: soft}]",
    ]);
    let cut = |stories: &[&Story]| {
        let graph = joined(&catalog, stories);
        let cuts = Recovery::of(&graph).cuts(&graph);
        cuts.iter()
            .map(|cut| {
                assert!(cut.smallest && cut.needs.len() == 1);
                let need = graph.need(cut.needs[0]);
                format!(
                    "{} → {}",
                    graph.node(need.from).name,
                    graph.node(need.to).name
                )
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(cut(&[]), ["c → a", "github → mysql"]);
    let managed = deploy()
        .meets(1, "github.com", "192.0.2.1", 443, Verdict::Deny)
        .with(|report| report.run.mode = Mode::Enforce);
    assert_eq!(cut(&[&managed]), ["c → a", "mysql → github"]);
}

fn told(graph: &Graph, impact: &Impact) -> Vec<String> {
    impact
        .deploys
        .iter()
        .map(|(id, outcome)| {
            let to = |needs: &[_]| -> Vec<_> {
                needs
                    .iter()
                    .map(|need| graph.node(graph.need(*need).to).name.clone())
                    .collect()
            };
            let outcome = match outcome {
                Outcome::Works => "works".to_owned(),
                Outcome::NeverSeen => "never seen".to_owned(),
                Outcome::Fails(needs) => format!("fails for {}", to(needs).join(", ")),
                Outcome::Unknown(needs) => format!("unknown for {}", to(needs).join(", ")),
            };
            format!(
                "{} is {:?}, its deploy {outcome}",
                graph.node(*id).name,
                impact.state(*id)
            )
        })
        .collect()
}

#[test]
fn an_outage_by_evidence_only() {
    let catalog = catalog(&[
        "name: a-root",
        "name: b-hard\nneeds: [{service: a-root, strength: hard}, {service: a-root, for: deploy, strength: hard}]",
        "name: c-soft\nneeds: [{service: a-root, strength: soft}, {service: a-root, for: deploy, strength: soft}]",
        "name: d-open\nneeds: [a-root]",
        "name: e-far\nneeds: [{service: d-open, strength: hard}, {service: b-hard, for: deploy}]",
        "name: f-deep\nneeds: [{service: d-open, for: deploy, strength: hard}, {service: b-hard, strength: hard}]",
        "name: g-free\nneeds: [{service: c-soft, for: deploy}]",
        "name: mysql",
    ]);
    let watched = deploy();
    let graph = joined(&catalog, &[&watched]);
    let impact = impact(&graph, &[id(&graph, "a-root")]);
    insta::assert_snapshot!(told(&graph, &impact).join("\n"), @"
    a-root is Down, its deploy never seen
    b-hard is Down, its deploy fails for a-root
    c-soft is Up, its deploy works
    d-open is Unknown, its deploy never seen
    e-far is Unknown, its deploy unknown for b-hard
    f-deep is Down, its deploy unknown for d-open
    g-free is Up, its deploy works
    mysql is Up, its deploy works
    ");
    let order: Vec<Vec<_>> = impact
        .order
        .iter()
        .map(|level| {
            level
                .iter()
                .map(|id| graph.node(*id).name.as_str())
                .collect()
        })
        .collect();
    assert_eq!(
        order,
        [
            vec!["a-root"],
            vec!["b-hard", "d-open"],
            vec!["e-far", "f-deep"]
        ]
    );
    assert_eq!(impact.state(id(&graph, "mysql")), State::Up);
}

#[test]
fn a_run_that_failed_did_not_show_everything() {
    let catalog = catalog(&[
        "name: a-root",
        "name: mysql\nneeds: [{service: a-root, for: deploy}]",
        "name: web",
    ]);
    let run = |service: &str, change: &dyn Fn(&mut Report)| {
        let story = Story::of(service, &["./d.sh"]).process(0, "./d.sh", &["/bin/sh", "./d.sh"]);
        story.with(change)
    };
    let shown = |change: &dyn Fn(&mut Report)| {
        let (one, two) = (run("mysql", change), run("web", change));
        let graph = joined(&catalog, &[&one, &two]);
        let impact = impact(&graph, &[id(&graph, "a-root")]);
        let web = told(&graph, &impact).pop().unwrap();
        let found = all_findings(&graph);
        let kinds: Vec<_> = found.iter().map(|finding| finding.kind).collect();
        (web, kinds)
    };
    let works = "web is Up, its deploy works".to_owned();
    let unknown = "web is Up, its deploy unknown for ".to_owned();
    for good in [0, 120] {
        let all = shown(&|report| report.run.exit_code = Some(good));
        assert_eq!(all, (works.clone(), vec!["declared_never_seen"]));
    }
    let changes: [&dyn Fn(&mut Report); 4] = [
        &|report| report.run.exit_code = Some(1),
        &|report| report.run.exit_code = None,
        &|report| report.run.exit_code = Some(124),
        &|report| report.coverage.lost = 1,
    ];
    for change in changes {
        assert_eq!(shown(change), (unknown.clone(), vec![]));
    }
    // What was not guarded was not seen at all.
    let (never, _) = shown(&|report| report.run.guarded = Guarded::No);
    assert_eq!(never, "web is Up, its deploy never seen");
    // A good run is not undone by a bad one.
    let (good, bad) = (
        run("web", &|_| ()),
        run("web", &|report| {
            report.run.id = "later".to_owned();
            report.run.exit_code = Some(1);
        }),
    );
    let graph = joined(&catalog, &[&good, &bad]);
    let impact = impact(&graph, &[id(&graph, "a-root")]);
    assert_eq!(told(&graph, &impact).pop(), Some(works));
}

fn all_findings(graph: &Graph) -> Vec<GraphFinding> {
    findings(graph, &Recovery::of(graph), &loops_of(graph))
}

#[test]
fn a_circle_that_no_deployment_closes_is_a_finding_too() {
    let told = |services: &[&str]| {
        let graph = joined(&catalog(services), &[]);
        let found = all_findings(&graph);
        let line = |it: &GraphFinding| {
            let steps: String = it
                .needs
                .iter()
                .map(|step| format!(" → {}", graph.node(graph.need(*step).to).name))
                .collect();
            let place = it.place.as_ref().unwrap();
            format!(
                "{} {}: {}{steps} ({place})",
                it.kind,
                it.title,
                graph.node(it.about.0).name
            )
        };
        let ids: Vec<_> = found.iter().map(|it| it.id.clone()).collect();
        (found.iter().map(line).collect::<Vec<_>>(), ids)
    };
    let (pair, pair_ids) = told(&["name: a\nneeds: [b]", "name: b\nneeds: [a]"]);
    assert_eq!(
        pair,
        ["cannot_start a, b cannot start without each other: a → b → a (c.yaml:5:9)"]
    );
    // Itself alone; a larger one, whose first need is not the shortest way.
    let (several, ids) = told(&[
        "name: alone\nneeds: [alone]",
        "name: b\nneeds: [a]",
        "name: a\nneeds: [b]",
        "name: x\nneeds: [y]",
        "name: y\nneeds: [z]",
        "name: z\nneeds: [x]",
        "name: before\nneeds: [x]",
    ]);
    assert_eq!(
        several,
        [
            "cannot_start a, b cannot start without each other: a → b → a (c.yaml:15:9)",
            "cannot_start alone needs itself to run, and cannot start from black: alone → alone (c.yaml:5:9)",
            "cannot_start x, y, z cannot start without each other: x → y → z → x (c.yaml:20:9)",
        ]
    );
    assert_eq!(ids[0], pair_ids[0], "the same over catalogs");
    // What a deployment closes is told as a loop, and once.
    let (loops, _) = told(&[
        "name: a\nneeds: [{service: b, for: deploy}]",
        "name: b\nneeds: [a]",
    ]);
    assert_eq!(
        loops,
        ["loop the deploy of a needs b, which needs a: a → b → a (c.yaml:5:19)"]
    );
    let (none, _) = told(&["name: a\nneeds: [b]", "name: b"]);
    assert_eq!(none, [""; 0]);
}

#[test]
fn what_is_worth_looking_at() {
    let catalog = catalog(&[
        "name: mysql\nowner: team-db\ntier: 1\nneeds: [{service: vault, for: deploy}, {service: mirror, for: deploy}]",
        "name: github\ntier: 1\nprovides: [.github.com]\nneeds: [mysql]",
        "name: mirror\ntier: 2\nprovides: [mirror.internal]",
        "name: vault",
        "name: idle\nneeds: [{service: vault, for: deploy}]",
    ]);
    let story = |id: &str| {
        deploy()
            .process(1, "/usr/bin/curl", &["curl", "https://github.com/x"])
            .process(1, "/opt/tool", &["/opt/tool\u{1b}[31m"])
            .reaches(2, "github.com", "192.0.2.1", 443)
            .reaches(3, "api.github.com", "192.0.2.1", 443)
            .reaches(3, "mirror.internal", "192.0.2.2", 80)
            .reaches(3, "pypi.org", "192.0.2.3", 443)
            .with(|report| id.clone_into(&mut report.run.id))
    };
    let (one, two) = (story("one"), story("two"));
    let graph = joined(&catalog, &[&one, &two]);
    let found = all_findings(&graph);
    let lines: Vec<_> = found
        .iter()
        .map(|f| {
            format!(
                "{} {} {:?} {}{} | {} | {:?} | {}",
                f.id,
                f.kind,
                f.severity,
                f.loop_kind
                    .map_or(String::new(), |kind| format!("({}) ", kind.as_str())),
                f.title,
                f.owner.as_deref().unwrap_or("-"),
                f.runs,
                f.fix
            )
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
    // One run more, on another host: the same findings.
    let ids = |graph: &Graph| -> Vec<_> {
        let found = all_findings(graph);
        found.into_iter().map(|f| f.id).collect()
    };
    assert_eq!(ids(&graph), ids(&joined(&catalog, &[&two])));
    // Without a run, nothing is said to be unseen.
    let kinds: Vec<_> = all_findings(&joined(&catalog, &[]))
        .iter()
        .map(|f| f.kind)
        .collect();
    assert_eq!(kinds, ["tier_inversion"]);
}

/// What stands in a report's file may be anything.
fn any_story() -> impl Strategy<Value = Story> {
    let name = || {
        prop_oneof![
            Just(""),
            Just("github.com"),
            Just("a.github.com"),
            Just("x\\000.y"),
            Just(".."),
            Just("unknown")
        ]
    };
    let word = || {
        prop_oneof![
            Just(""),
            Just("./d.sh"),
            Just("/bin/sh"),
            Just("/"),
            Just(".."),
            Just("https://github.com/"),
            Just("é[::1]:")
        ]
    };
    let process = (0..6u64, word(), prop::collection::vec(word(), 0..3));
    let flow = (
        0..8u64,
        name(),
        prop_oneof![Just("192.0.2.1"), Just("::1"), Just("10.20.0.4")],
        0..4u16,
        any::<bool>(),
    );
    (
        prop_oneof![Just("mysql"), Just("stranger"), Just("")],
        prop::collection::vec(word(), 0..3),
        prop::collection::vec(process, 0..5),
        prop::collection::vec(flow, 0..5),
        prop::collection::vec((0..8u64, name()), 0..4),
    )
        .prop_map(|(service, command, processes, flows, lookups)| {
            let mut story = Story::of(service, &command);
            for (parent, exe, argv) in processes {
                story = story.process(parent, exe, &argv);
            }
            for (subject, name, address, port, refused) in flows {
                let verdict = if refused {
                    Verdict::Deny
                } else {
                    Verdict::Allow
                };
                story = story.meets(subject, name, address, port, verdict);
            }
            for (subject, name) in lookups {
                story = story.asks(subject, name, Verdict::Deny, &[name, "github.com"]);
            }
            story
                .with(|report| report.run.mode = Mode::Enforce)
                .scripts(&[])
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_report_is_joined(stories in prop::collection::vec(any_story(), 0..3)) {
        let catalog = example();
        let stories: Vec<&Story> = stories.iter().collect();
        let graph = joined(&catalog, &stories);
        let recovery = Recovery::of(&graph);
        let found = loops(&graph, &recovery, &[]);
        for need in graph.needs() {
            prop_assert!(!need.evidence.is_empty());
            prop_assert!(need.from != need.to || graph.node(need.to).name == "mysql");
        }
        let mut ids: Vec<_> = findings(&graph, &recovery, &found).into_iter().map(|f| f.id).collect();
        let all = ids.len();
        ids.sort();
        ids.dedup();
        prop_assert_eq!(ids.len(), all, "an id twice");
    }
}
