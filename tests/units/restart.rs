//! An agent that is replaced by another, and one that is stopped.

use std::fs;

use blackstart_core::report::{Until, Verdict};
use blackstart_lab::{Cgroups, World, Zone};

use crate::scene::{boot, judged, of, reports, reports_in, shipped, told, unit};

/// Reaches for four hosts all the time, and writes down what came of it in a file for the phase that `phase` names.
const TRIES: &str = "#!/usr/bin/python3\n\
import socket, sys, time\n\
while True:\n    \
    try:\n        \
        phase = open('phase').read().strip()\n    \
    except OSError:\n        \
        phase = ''\n    \
    if not phase:\n        \
        time.sleep(0.01)\n        \
        continue\n    \
    said = ''\n    \
    for host in sys.argv[1:]:\n        \
        try:\n            \
            socket.create_connection((host, 80), 10).close()\n            \
            said += host + ' passed\\n'\n        \
        except OSError:\n            \
            said += host + ' refused\\n'\n    \
    with open('tries.' + phase, 'a') as out:\n        \
        out.write(said)\n    \
    time.sleep(0.001)\n";

/// `phase NAME` has the tries of another phase begin, once those of the one before are over; `tried NAME N` waits for so many more.
const PHASES: &str = "phase() { echo $1 >next; mv next phase; tried $1 1; }\n\
    tried() { lines=$(cat tries.$1 2>/dev/null | wc -l); soon \"[ \\$(cat tries.$1 2>/dev/null | wc -l) -ge $((lines + 4 * $2)) ]\"; }\n";

/// A machine whose `deploy-a.service` tries all the time.
fn trying(name: &str) -> (World, [String; 4]) {
    let world = World::new(name);
    let (billing, mirror) = (world.node("billing"), world.node("mirror"));
    billing.http();
    mirror.http();
    world.dns(
        Zone::new()
            .host("github.com", &billing)
            .host("mirror.internal", &mirror),
    );
    world.file(
        "deny.yaml",
        &format!(
            "apiVersion: blackstart.dev/v1\nkind: Policy\nmode: enforce\nrules:\n  - deny: github.com\n  - deny: {}\n",
            billing.v4()
        ),
    );
    world.file("tries.py", TRIES);
    let hosts = [
        "github.com".to_owned(),
        billing.v4().to_string(),
        "mirror.internal".to_owned(),
        mirror.v4().to_string(),
    ];
    let text = format!("ExecStart=DIR/tries.py {}\n", hosts.join(" "));
    unit(&world, "deploy-a.service", &text);
    (world, hosts)
}

/// How often a host was tried in this phase, and how often that passed.
fn tries(world: &World, phase: &str, host: &str) -> (usize, usize) {
    let text = fs::read_to_string(world.dir().join(format!("tries.{phase}"))).unwrap_or_default();
    let of_host = || text.lines().filter_map(|line| line.strip_prefix(host));
    let passed = of_host().filter(|outcome| *outcome == " passed");
    (of_host().count(), passed.count())
}

/// Nothing that is denied has passed, and nothing else was refused.
#[track_caller]
fn all_was_judged(world: &World, phase: &str, hosts: &[String; 4]) {
    let [name, address, other_name, other_address] = hosts;
    for denied in [name, address] {
        let (all, passed) = tries(world, phase, denied);
        assert!(
            all >= 150 && passed == 0,
            "{denied}: {passed} of {all} passed: {}",
            told(world)
        );
    }
    for allowed in [other_name, other_address] {
        let (all, passed) = tries(world, phase, allowed);
        assert!(
            all >= 150 && passed == all,
            "{allowed}: {passed} of {all} passed: {}",
            told(world)
        );
    }
}

/// Nothing is refused any more.
#[track_caller]
fn all_is_open(world: &World, phase: &str, hosts: &[String; 4]) {
    for host in hosts {
        let (all, passed) = tries(world, phase, host);
        assert!(
            all >= 10 && passed == all,
            "{host}: {passed} of {all} passed: {}",
            told(world)
        );
    }
}

#[test]
fn a_restart_of_the_agent_opens_no_unit_and_a_stop_does() {
    let (world, hosts) = trying("units_restarted");
    shipped(&world);
    let script = format!(
        "{PHASES}\
         reports() {{ ls /run/blackstart/runs/*/report.json 2>/dev/null | while read r; do [ -e $(dirname $r)/lock ] || echo $r; done; }}\n\
         cp BLACKSTART /run/blackstart-lab; cp deny.yaml /run; : >told\n\
         systemctl start blackstart-agent.service; soon 'grep -q \"takes calls\" told'\n\
         systemctl start deploy-a.service; guarded deploy-a.service 1\n\
         phase during; tried during 50\n\
         systemctl restart blackstart-agent.service; guarded deploy-a.service 2; over 1; tried during 50\n\
         systemctl try-restart blackstart-agent.service; guarded deploy-a.service 3; over 2; tried during 50\n\
         phase idle\n\
         systemctl stop blackstart-agent.service\n\
         phase after; tried after 10\n\
         cp -r /run/blackstart/runs kept; ls /sys/fs/bpf/blackstart 2>/dev/null || true\n\
         BLACKSTART_STATE=/run/blackstart /run/blackstart-lab runs list >runs\n"
    );
    let ended = boot(&world, Cgroups::Unified, &script).succeeds();
    assert_eq!(ended.stdout, "", "{}", told(&world));
    all_was_judged(&world, "during", &hosts);
    all_is_open(&world, "after", &hosts);
    let reports = reports_in(&world.dir().join("kept"));
    let runs = of(&reports, "deploy-a.service");
    let until: Vec<_> = runs
        .iter()
        .map(|report| report.run.attached.as_ref().unwrap().until)
        .collect();
    assert_eq!(
        until,
        [
            Some(Until::Replaced),
            Some(Until::Replaced),
            Some(Until::Asked)
        ],
        "{}",
        told(&world)
    );
    for report in &runs {
        assert!(judged(report, "github.com", Verdict::Deny));
        assert_eq!(
            report.coverage.attempts,
            report.coverage.recorded + report.coverage.lost
        );
    }
    // Each goes on until the next one has begun.
    for pair in runs.windows(2) {
        assert!(pair[0].coverage.unsupervised_seconds > 0.0);
        assert!(pair[0].run.ended.as_ref() > Some(&pair[1].run.started));
    }
    assert!(
        told(&world).contains("deploy-a.service stays guarded, for the next agent"),
        "{}",
        told(&world)
    );
    let listed = fs::read_to_string(world.dir().join("runs")).unwrap();
    assert_eq!(listed.matches(" attached").count(), 3, "{listed}");
}

#[test]
fn what_an_agent_left_waits_for_the_next_one_whatever_else_is_typed() {
    let (world, hosts) = trying("units_handed_on");
    let script = format!(
        "{PHASES}\
         agent --guard 'deploy-*.service=deny.yaml'\n\
         systemctl start deploy-a.service; guarded deploy-a.service 1\n\
         phase during; tried during 50\n\
         kill -USR1 $agent; wait $agent; echo \"code $?\"\n\
         BLACKSTART sweep; BLACKSTART run -q -- true; BLACKSTART runs list | grep -c ' attached' || true; tried during 50\n\
         agent --guard 'deploy-*.service=deny.yaml'; guarded deploy-a.service 2; over 2; tried during 50\n\
         phase idle\n\
         kill $agent; wait $agent; echo \"code $?\"\n\
         phase after; tried after 10\n"
    );
    let ended = boot(&world, Cgroups::Unified, &script).succeeds();
    assert_eq!(ended.stdout, "code 0\n0\ncode 0\n", "{}", told(&world));
    all_was_judged(&world, "during", &hosts);
    all_is_open(&world, "after", &hosts);
    let reports = reports(&world);
    let [left, next] = of(&reports, "deploy-a.service")[..] else {
        panic!("{}", told(&world))
    };
    let until =
        |report: &blackstart_core::report::Report| report.run.attached.as_ref().unwrap().until;
    assert_eq!(until(left), Some(Until::Replaced));
    assert_eq!(until(next), Some(Until::Asked));
    assert_eq!(world.left_behind(), Vec::<std::path::PathBuf>::new());
}
