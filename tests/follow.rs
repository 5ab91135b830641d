//! Units that a run starts through systemd, observed as a part of it (`follow:` in a policy).

use std::path::PathBuf;

use blackstart_core::report::{Followed, FollowedUntil, Report, Verdict};
use blackstart_lab::client::attached_programs;
use blackstart_lab::systemd::BARE;
use blackstart_lab::{Bus, Cgroups, Ended, World};

/// A host with a machine that answers to two names.
fn world(name: &str) -> World {
    World::with_web(name, &["github.com", "other.example"]).0
}

/// What a unit begins with: it waits until it is observed, or is to wait for nobody. How soon it is observed is not what these
/// tests are about; a busy machine takes its time.
const BEGIN: &str = "[Unit]\nDefaultDependencies=no\n\
    [Service]\nWorkingDirectory=DIR\n\
    ExecStartPre=/bin/sh -c 'until [ -e free ] || grep -qs unit.:.UNIT. state/runs/*/run.json; do sleep 0.01; done'\n";

/// A unit that asks somebody before it serves.
const APP: &str = "BEGIN\
    ExecStartPre=/usr/bin/curl -sS -m 20 -o UNIT.got http://github.com/\n\
    ExecStart=/bin/sleep infinity\n";

fn unit(world: &World, name: &str, text: &str) {
    world.unit(name, &text.replace("BEGIN", BEGIN));
}

/// Boot the machine and run `script` there, in which GUARD is a run with this policy, and KEEPING one whose leftovers
/// stay guarded.
fn boot(world: &World, cgroups: Cgroups, policy: &str, script: &str) -> Ended {
    world.policy("p.yaml", policy);
    let service = "apiVersion: blackstart.dev/v1\nkind: Service\n";
    let catalog = format!(
        "{service}name: mysql\n---\n{service}name: github\nprovides: [github.com]\nneeds: [mysql]\n"
    );
    world.file("c.yaml", &catalog);
    let guard =
        "BLACKSTART run --policy DIR/p.yaml --catalog DIR/c.yaml --report r.json --report r.html";
    let count = attached_programs("/sys/fs/cgroup/system.slice".as_ref()).join(" ");
    let script = script
        .replace("KEEPING", &format!("{guard} --leftover keep --"))
        .replace("GUARD", &format!("{guard} --"))
        .replace("PROGRAMS/", &format!("{count}/"));
    world.boot(cgroups, Bus::Answers, &script)
}

fn report(world: &World) -> Report {
    let text = std::fs::read(world.dir().join("r.json")).expect("there is a report");
    serde_json::from_slice(&text).unwrap()
}

/// What stands at the top of the process that reached for a name: the unit, or the run's command.
fn root(report: &Report, name: &str) -> Vec<String> {
    let mut roots = Vec::new();
    let flows = report.flows.iter();
    for flow in flows.filter(|flow| flow.name.as_deref() == Some(name)) {
        let mut subject = report
            .subjects
            .iter()
            .find(|it| Some(it.id) == flow.subject);
        while let Some(parent) = subject.and_then(|it| it.parent) {
            subject = report.subjects.iter().find(|it| it.id == parent);
        }
        roots.push(subject.map_or("?".to_owned(), |it| it.exe.clone()));
    }
    roots.sort();
    roots.dedup();
    roots
}

/// What is reported of the flow to this name.
fn chain(report: &Report, name: &str) -> Vec<String> {
    let flow = report
        .flows
        .iter()
        .find(|flow| flow.name.as_deref() == Some(name));
    let mut chain = Vec::new();
    let mut next = flow.expect("it was reached for").subject;
    while let Some(id) = next {
        let subject = report.subjects.iter().find(|it| it.id == id).unwrap();
        chain.push(
            subject
                .exe
                .rsplit('/')
                .next()
                .unwrap_or_default()
                .to_owned(),
        );
        next = subject.parent;
    }
    chain
}

#[test]
fn a_unit_that_the_run_restarts_is_a_part_of_it() {
    restarts(&world("follow"), Cgroups::Unified);
}

#[test]
fn a_unit_of_a_hybrid_host_is_followed_as_well() {
    restarts(&world("follow_hybrid"), Cgroups::Hybrid);
}

fn restarts(world: &World, cgroups: Cgroups) {
    unit(world, "app.service", APP);
    // Nobody waits for what is not followed.
    let other = APP.replace("BEGIN", BARE);
    unit(
        world,
        "other.service",
        &other.replace("github.com", "other.example"),
    );
    let ended = boot(
        world,
        cgroups,
        // The run itself is refused the very same.
        "mode: enforce\nfollow: [app.service, never.service]\nrules:\n  - deny: github.com\n",
        "touch free; systemctl start app.service; rm free app.service.got\n\
         GUARD sh -c 'curl -sS http://github.com/ || systemctl restart app.service other.service' 2>said\n\
         cat app.service.got\n\
         systemctl is-active app.service\n\
         [ -d /sys/fs/cgroup/unified ] || PROGRAMS/app.service\n\
         cat said >&2\n",
    )
    .succeeds();
    let after = match cgroups {
        Cgroups::Unified => "0\n",
        Cgroups::Hybrid => "",
    };
    assert_eq!(ended.stdout, format!("hello from github\nactive\n{after}"));
    let report = report(world);
    let [followed] = &report.run.followed[..] else {
        panic!("{:?} {ended:?}", report.run.followed)
    };
    assert_eq!(followed.unit, "app.service");
    assert_eq!(followed.until, Some(FollowedUntil::Active), "{followed:?}");
    assert_eq!(followed.cgroup, "/system.slice/app.service");
    assert_eq!(
        followed.asked.as_deref(),
        Some(&["/run/systemd/private".to_owned()][..])
    );
    assert_eq!(chain(&report, "github.com"), ["curl", "unit:app.service"]);
    let by_unit = |verdict| {
        let mut flows = report.flows.iter();
        flows.any(|flow| flow.name.as_deref() == Some("github.com") && flow.verdict == verdict)
    };
    assert!(
        by_unit(Verdict::Allow) && !by_unit(Verdict::Deny),
        "{:?}",
        report.flows
    );
    // What nobody follows is not seen.
    assert_eq!(root(&report, "other.example"), [""; 0]);
    assert_eq!(unseen(&report), [""; 0]);
    assert_eq!(report.coverage.lost, 0);
    // It is told on the terminal, and so is what never came.
    for words in [
        "app.service, for",
        "until it was active, which its type is at once; the run had reached for /run/systemd/private",
        "never.service, which the policy follows, did not start while the run was on",
    ] {
        assert!(ended.stderr.contains(words), "{words}: {}", ended.stderr);
    }
    assert_eq!(world.left_behind(), Vec::<PathBuf>::new());
}

/// What was not seen of units, but for how long they had run on a busy machine.
fn unseen(report: &Report) -> Vec<&str> {
    let gaps = report.coverage.gaps.iter();
    let gaps = gaps.filter(|gap| gap.kind == "follow");
    let gaps = gaps.map(|gap| gap.detail.as_str());
    gaps.filter(|gap| !gap.contains(" had run for up to "))
        .collect()
}

#[test]
fn a_unit_that_runs_and_goes_on_is_left_alone() {
    let world = world("follow_running");
    let asks = format!(
        "{BARE}ExecStart=/bin/sh -c 'while :; do curl -sS -m 5 -o got http://github.com/; sleep 0.05; done'\n"
    );
    unit(&world, "app.service", &asks);
    let ended = boot(
        &world,
        Cgroups::Unified,
        "follow: [app.service]\n",
        "systemctl start app.service\n\
         GUARD sh -c 'rm -f DIR/got; systemctl is-active app.service; until [ -s DIR/got ]; do sleep 0.05; done; \
           PROGRAMS/app.service'\n",
    )
    .succeeds();
    assert_eq!(ended.stdout, "active\n0\n");
    let report = report(&world);
    assert_eq!(report.run.followed, []);
    assert_eq!(root(&report, "github.com"), [""; 0]);
    let never = report.findings.iter().find(|it| it.kind == "not_followed");
    assert!(never.is_some_and(|it| it.title.starts_with("app.service, ")));
}

fn followed<'r>(report: &'r Report, unit: &str) -> &'r Followed {
    let mut all = report.run.followed.iter();
    all.find(|it| it.unit == unit)
        .unwrap_or_else(|| panic!("{unit}: {:?}", report.run.followed))
}

#[test]
fn each_way_in_which_a_start_ends_is_told() {
    let world = world("follow_ends");
    let service = BEGIN;
    let get = |name: &str| format!("/usr/bin/curl -sS -m 20 -o /dev/null http://{name}/");
    let work = get("github.com");
    unit(
        &world,
        "job-1.service",
        &format!("{service}Type=oneshot\nExecStart={work}\n"),
    );
    unit(
        &world,
        "job-2.service",
        &format!(
            "{service}Type=oneshot\nExecStart={}\n",
            get("other.example")
        ),
    );
    unit(
        &world,
        "bad.service",
        &format!("{service}ExecStartPre={work}\nExecStartPre=/bin/false\nExecStart=/bin/true\n"),
    );
    unit(
        &world,
        "slow.service",
        &format!(
            "{service}ExecStartPre={work}\nExecStartPre=/bin/sh -c 'touch asked; exec sleep 300'\nExecStart=/bin/true\n"
        ),
    );
    let ended = boot(
        &world,
        Cgroups::Unified,
        "follow: [\"job-?.service\", bad.service, slow.service]\n",
        "GUARD sh -c 'systemctl start job-1.service job-2.service; systemctl start bad.service || true; \
           systemctl start --no-block slow.service; until [ -e asked ]; do sleep 0.02; done'\n\
         PROGRAMS/slow.service\n",
    )
    .succeeds();
    assert_eq!(ended.stdout, "0\n", "taken off with the run's end");
    let report = report(&world);
    let until = |unit| followed(&report, unit).until;
    assert_eq!(until("job-1.service"), Some(FollowedUntil::Ended));
    assert_eq!(until("job-2.service"), Some(FollowedUntil::Ended));
    assert_eq!(until("bad.service"), Some(FollowedUntil::Failed));
    assert_eq!(until("slow.service"), Some(FollowedUntil::RunEnded));
    assert_eq!(root(&report, "other.example"), ["unit:job-2.service"]);
    assert_eq!(
        root(&report, "github.com"),
        [
            "unit:bad.service",
            "unit:job-1.service",
            "unit:slow.service"
        ]
    );
    assert_eq!(
        unseen(&report),
        [
            "slow.service was still starting when the run ended: what it did from there on was not seen"
        ]
    );
}

#[test]
fn as_many_are_observed_at_once_as_there_is_room_for() {
    let world = world("follow_many");
    for number in 1..=6 {
        unit(
            &world,
            &format!("job-{number}.service"),
            &format!(
                "{BARE}Type=oneshot\nExecStart=/bin/sh -c 'until [ -e go ]; do sleep 0.02; done'\n"
            ),
        );
    }
    boot(
        &world,
        Cgroups::Unified,
        "follow: [\"job-*.service\"]\n",
        "GUARD sh -c 'systemctl start --no-block job-1.service job-2.service job-3.service job-4.service job-5.service \
           job-6.service; until [ $(grep -o \"observed: [4] others\" state/runs/*/run.json | wc -l) = 2 ]; do sleep 0.05; done; \
           touch go; while systemctl show --property=ActiveState \"job-*.service\" | grep -q =activating; do sleep 0.05; done; rm go; systemctl start --no-block job-1.service; \
           until [ $(grep -o \"cgroup[^,]*job-1[.]service\" state/runs/*/run.json | wc -l) = 2 ]; do sleep 0.05; done; touch go; \
           while systemctl show --property=ActiveState job-1.service | grep -q =activating; do sleep 0.05; done'\n",
    )
    .succeeds();
    let report = report(&world);
    let all = &report.run.followed;
    assert_eq!(all.len(), 5, "four, and one again: {all:?}");
    let ended = |it: &Followed| it.until == Some(FollowedUntil::Ended);
    assert!(all.iter().all(ended), "{all:?}");
    let unseen = unseen(&report);
    let full = |gap: &&str| gap.ends_with(".service was not observed: 4 others were starting");
    assert!(unseen.len() == 2 && unseen.iter().all(full), "{unseen:?}");
}

#[test]
fn a_unit_that_is_started_again_in_its_cgroup_is_followed() {
    let world = world("follow_again");
    unit(
        &world,
        "app.service",
        &format!("{APP}Restart=always\nRestartSec=100ms\n"),
    );
    boot(
        &world,
        Cgroups::Unified,
        "follow: [app.service]\n",
        "touch free; systemctl start app.service; rm free app.service.got\n\
         GUARD sh -c 'systemctl kill --signal=KILL app.service; until [ -s app.service.got ]; do sleep 0.05; done'\n",
    )
    .succeeds();
    let report = report(&world);
    followed(&report, "app.service");
    assert_eq!(root(&report, "github.com"), ["unit:app.service"]);
}

/// The circles that the run is told to close, with the processes behind each.
fn circles(report: &Report) -> Vec<Vec<String>> {
    let findings = report.findings.iter().filter(|it| it.circle.is_some());
    let chain = |id: &u64| {
        let subject = report.subjects.iter().find(|it| it.id == *id);
        subject.map_or("?".to_owned(), |it| it.exe.clone())
    };
    findings
        .map(|it| it.subjects.iter().map(chain).collect())
        .collect()
}

#[test]
fn what_a_unit_needs_to_start_closes_a_circle() {
    let world = world("follow_circle");
    unit(&world, "app.service", APP);
    let ended = boot(
        &world,
        Cgroups::Unified,
        "service: mysql\nfollow: [app.service]\n",
        "GUARD systemctl restart app.service\n",
    )
    .succeeds();
    let report = report(&world);
    assert_eq!(
        circles(&report),
        [["/usr/bin/curl", "unit:app.service"]],
        "{ended:?}"
    );
    let words = "mysql needs github to deploy: ";
    let line = ended.stderr.lines().find(|line| line.contains(words));
    assert!(
        line.unwrap_or_default().contains("unit:app.service"),
        "{ended:?}"
    );
    let page = std::fs::read_to_string(world.dir().join("r.html")).unwrap();
    for text in ["unit:app.service", "app.service, for "] {
        assert!(page.contains(text), "{text}");
    }
}

#[test]
fn who_started_for_reasons_of_its_own_is_not_the_runs() {
    let world = world("follow_unasked");
    unit(&world, "app.service", APP);
    let ended = boot(
        &world,
        Cgroups::Unified,
        "service: mysql\nfollow: [app.service]\n",
        "GUARD sh -c 'touch here; until [ -e go ]; do sleep 0.05; done' 2>said &\n\
         until [ -e here ]; do sleep 0.05; done\n\
         systemctl restart app.service\n\
         touch go; wait $!\n\
         cat said >&2\n",
    )
    .succeeds();
    let report = report(&world);
    let app = followed(&report, "app.service");
    assert_eq!(app.asked.as_deref(), Some(&[][..]));
    assert_eq!(root(&report, "github.com"), ["unit:app.service"]);
    assert_eq!(circles(&report), Vec::<Vec<String>>::new());
    let words = "nothing of the run had reached for systemd before";
    assert!(ended.stderr.contains(words), "{}", ended.stderr);
}

#[test]
fn without_its_supervisor_nobody_is_observed() {
    let world = world("follow_killed");
    let slow = APP.replace(
        "ExecStart=",
        "ExecStartPre=/bin/sh -c 'until [ -e DIR/go ]; do sleep 0.05; done'\nExecStart=",
    );
    unit(&world, "app.service", &slow);
    let script = "GUARD sh -c 'echo $$ >DIR/pid; systemctl start --no-block app.service; exec sleep 300' & supervisor=$!\n\
        until grep -qs github.com KEPT/runs/*/followed.jsonl; do sleep 0.1; done\n\
        [ $(PROGRAMS/app.service) -gt 0 ] && echo observed\n\
        kill -KILL $supervisor; wait $supervisor || true\n\
        until [ $(PROGRAMS/app.service) = 0 ]; do sleep 0.05; done\n\
        touch DIR/go; until [ $(systemctl is-active app.service) = active ]; do sleep 0.05; done\n\
        group=$(sed -n s/^0:://p /proc/$(cat DIR/pid)/cgroup); kill -KILL $(cat DIR/pid)\n\
        while grep -qs 'populated 1' /sys/fs/cgroup$group/cgroup.events; do sleep 0.01; done\n\
        BLACKSTART report schema >/dev/null\n\
        cp KEPT/runs/*/report.json r.json; ls KEPT/runs/*/\n";
    let ended = boot(&world, Cgroups::Unified, "follow: [app.service]\n", script).succeeds();
    assert!(ended.stdout.starts_with("observed\n"), "{ended:?}");
    assert!(!ended.stdout.contains("followed.jsonl"), "{ended:?}");
    let report = report(&world);
    let app = followed(&report, "app.service");
    assert_eq!((app.until, &app.ended), (None, &None));
    assert_eq!(root(&report, "github.com"), ["unit:app.service"]);
    let gaps = &report.coverage.gaps;
    let told = |words: &str| gaps.iter().any(|gap| gap.detail.starts_with(words));
    assert!(
        told("app.service was starting when the supervisor ended"),
        "{gaps:?}"
    );
    assert_eq!(world.left_behind(), Vec::<PathBuf>::new());
}

#[test]
fn a_run_whose_leftovers_stay_guarded_tells_of_its_units_twice() {
    let world = world("follow_kept");
    unit(&world, "app.service", APP);
    let script = "KEEPING sh -c 'systemctl restart app.service; sleep 300 >/dev/null 2>&1 & echo $! >DIR/pid'\n\
        group=$(sed -n s/^0:://p /proc/$(cat DIR/pid)/cgroup); kill -KILL $(cat DIR/pid)\n\
        while grep -qs 'populated 1' /sys/fs/cgroup$group/cgroup.events; do sleep 0.01; done\n\
        BLACKSTART report schema >/dev/null\n\
        cp state/runs/*/report.json r.json\n";
    boot(&world, Cgroups::Unified, "follow: [app.service]\n", script).succeeds();
    let report = report(&world);
    let app = followed(&report, "app.service");
    assert_eq!(app.until, Some(FollowedUntil::Active));
    assert_eq!(root(&report, "github.com"), ["unit:app.service"]);
    assert!(report.coverage.unsupervised_seconds > 0.0);
}

#[test]
fn where_pid_1_is_something_else_that_is_said() {
    let world = world("follow_nobody");
    let run = world
        .guard()
        .policy("follow: [app.service]\n")
        .run(&["true"])
        .exits(0);
    let gaps = &run.report().coverage.gaps;
    let told = gaps.iter().find(|gap| gap.kind == "follow");
    assert_eq!(
        told.map(|gap| gap.detail.as_str()),
        Some("app.service cannot be followed: PID 1 is not systemd"),
        "{gaps:?}"
    );
}
