//! Units of systemd that a rule of the agent's has guarded (`agent --guard`).

use std::fs;
use std::path::PathBuf;

use blackstart_core::report::{Report, Until, Verdict};
use blackstart_lab::{Cgroups, World};
use scene::{ASKS, boot, judged, of, reports, shipped, told, unit, world};

mod restart;
mod scene;

#[test]
fn a_unit_that_matches_is_guarded_from_its_start_and_no_other_is() {
    guards(&world("units"), Cgroups::Unified);
}

#[test]
fn units_of_a_hybrid_host_are_guarded_as_well() {
    guards(&world("units_hybrid"), Cgroups::Hybrid);
}

fn guards(world: &World, cgroups: Cgroups) {
    for name in ["deploy-a.service", "deploy-@.service", "other.service"] {
        unit(world, name, &ASKS.replace("UNIT", "%n"));
    }
    let ended = boot(
        world,
        cgroups,
        "agent --guard 'deploy-*.service=deny.yaml'\n\
         systemctl start deploy-a.service deploy-@x.service other.service\n\
         guarded deploy-a.service 1; guarded deploy-@x.service 1\n\
         now deploy-a.service github.com; now deploy-a.service mirror.internal\n\
         now deploy-@x.service github.com; now other.service github.com\n\
         systemctl stop deploy-a.service; over 1\n\
         kill $agent; wait $agent; echo \"code $?\"\n\
         now deploy-@x.service github.com\n\
         BLACKSTART runs list >runs\n",
    )
    .succeeds();
    assert_eq!(
        ended.stdout,
        "github.com 6\nmirror.internal 0\ngithub.com 6\ngithub.com 0\ncode 0\ngithub.com 0\n",
        "{}",
        told(world)
    );
    let reports = reports(world);
    assert_eq!(reports.len(), 2, "{}", told(world));
    let [first] = of(&reports, "deploy-a.service")[..] else {
        panic!("{}", told(world))
    };
    let attached = first.run.attached.as_ref().unwrap();
    assert_eq!(attached.cgroup, "/system.slice/deploy-a.service");
    assert_eq!(attached.until, Some(Until::Gone));
    assert!(judged(first, "github.com", Verdict::Deny));
    assert!(judged(first, "mirror.internal", Verdict::Allow));
    let [second] = of(&reports, "deploy-@x.service")[..] else {
        panic!("{}", told(world))
    };
    let attached = second.run.attached.as_ref().unwrap();
    assert_eq!(attached.until, Some(Until::Asked));
    let listed = fs::read_to_string(world.dir().join("runs")).unwrap();
    assert_eq!(listed.matches(" attached").count(), 2, "{listed}");
    assert!(!told(world).contains("other.service"), "{}", told(world));
    assert!(
        told(world).contains("deploy-a.service: curl"),
        "{}",
        told(world)
    );
    assert_eq!(world.left_behind(), Vec::<PathBuf>::new());
}

#[test]
fn a_unit_that_runs_already_is_attached_to_and_let_go_with_the_agent() {
    let world = world("units_running");
    unit(&world, "deploy-a.service", ASKS);
    let ended = boot(
        &world,
        Cgroups::Unified,
        "systemctl start deploy-a.service; now deploy-a.service github.com\n\
         agent --guard 'deploy-*.service=deny.yaml'\n\
         guarded deploy-a.service 1; now deploy-a.service github.com\n\
         kill $agent; wait $agent; echo \"code $?\"\n\
         now deploy-a.service github.com\n\
         systemctl is-active deploy-a.service\n",
    )
    .succeeds();
    assert_eq!(
        ended.stdout,
        "github.com 0\ngithub.com 6\ncode 0\ngithub.com 0\nactive\n",
        "{}",
        told(&world)
    );
    let reports = reports(&world);
    let [report] = of(&reports, "deploy-a.service")[..] else {
        panic!("{}", told(&world))
    };
    let attached = report.run.attached.as_ref().unwrap();
    assert_eq!(attached.until, Some(Until::Asked));
    // That it was not seen before goes without saying.
    let gaps = &report.coverage.gaps;
    assert!(
        gaps.iter().all(|gap| gap.kind != "unseen_start"),
        "{gaps:?}"
    );
    assert_eq!(world.left_behind(), Vec::<PathBuf>::new());
}

#[test]
fn a_unit_that_restarts_has_a_run_for_each_start() {
    let world = world("units_restart");
    unit(&world, "deploy-a.service", ASKS);
    let ended = boot(
        &world,
        Cgroups::Unified,
        "agent --guard 'deploy-?.service=deny.yaml'\n\
         systemctl start deploy-a.service; guarded deploy-a.service 1; now deploy-a.service github.com\n\
         systemctl stop deploy-a.service; over 1; systemctl start deploy-a.service\n\
         guarded deploy-a.service 2; now deploy-a.service github.com\n\
         systemctl stop deploy-a.service; over 2\n\
         kill $agent; wait $agent\n",
    )
    .succeeds();
    assert_eq!(
        ended.stdout,
        "github.com 6\ngithub.com 6\n",
        "{}",
        told(&world)
    );
    let reports = reports(&world);
    assert_eq!(of(&reports, "deploy-a.service").len(), 2);
    for report in &reports {
        let attached = report.run.attached.as_ref().unwrap();
        assert_eq!(
            (attached.until, attached.restarts),
            (Some(Until::Gone), 0),
            "{}",
            told(&world)
        );
    }
    assert_eq!(world.left_behind(), Vec::<PathBuf>::new());
}

#[test]
fn a_unit_that_restarts_in_a_loop_is_refused_the_same_and_has_few_runs() {
    let world = world("units_loop");
    unit(&world, "deploy-a.service", ASKS);
    let ended = boot(
        &world,
        Cgroups::Unified,
        "agent --guard 'deploy-*.service=deny.yaml'\n\
         for n in $(seq 12); do systemctl start deploy-a.service; sleep 0.1; systemctl stop deploy-a.service; done\n\
         systemctl start deploy-a.service\n\
         soon 'grep -q \"restarts in a loop\" told'\n\
         soon '[ \"$(now deploy-a.service github.com)\" = \"github.com 6\" ]'; now deploy-a.service github.com\n\
         now deploy-a.service mirror.internal\n\
         kill $agent; wait $agent\n",
    )
    .succeeds();
    assert_eq!(
        ended.stdout,
        "github.com 6\nmirror.internal 0\n",
        "{}",
        told(&world)
    );
    let reports = reports(&world);
    let runs = of(&reports, "deploy-a.service");
    assert!(runs.len() <= 5, "{} {}", runs.len(), told(&world));
    let last = runs.last().unwrap();
    let attached = last.run.attached.as_ref().unwrap();
    assert_eq!(attached.until, Some(Until::Asked), "{}", told(&world));
    assert!(attached.restarts > 0, "{attached:?}");
    assert!(judged(last, "github.com", Verdict::Deny));
    assert_eq!(world.left_behind(), Vec::<PathBuf>::new());
}

#[test]
fn without_its_agent_a_unit_stays_guarded_until_the_next_one_guards_it() {
    let world = world("units_killed");
    unit(&world, "deploy-a.service", ASKS);
    let ended = boot(
        &world,
        Cgroups::Unified,
        "agent --guard 'deploy-*.service=deny.yaml'\n\
         systemctl start deploy-a.service; guarded deploy-a.service 1; now deploy-a.service github.com\n\
         kill -KILL $agent; wait $agent || true; : >deploy-a.service.asked\n\
         now deploy-a.service github.com\n\
         agent --guard 'deploy-*.service=deny.yaml'\n\
         guarded deploy-a.service 2; over 1\n\
         now deploy-a.service github.com; grep -c 'github.com 0' deploy-a.service.asked || true\n\
         kill $agent; wait $agent\n\
         now deploy-a.service github.com\n",
    )
    .succeeds();
    // Between the two there was no moment in which it was not.
    assert_eq!(
        ended.stdout,
        "github.com 6\ngithub.com 6\ngithub.com 6\n0\ngithub.com 0\n",
        "{}",
        told(&world)
    );
    let reports = reports(&world);
    let [killed, next] = of(&reports, "deploy-a.service")[..] else {
        panic!("{}", told(&world))
    };
    let until = |report: &Report| report.run.attached.as_ref().unwrap().until;
    assert_eq!((until(killed), until(next)), (None, Some(Until::Asked)));
    assert!(judged(killed, "github.com", Verdict::Deny));
    assert!(killed.coverage.unsupervised_seconds > 0.0);
    assert_eq!(world.left_behind(), Vec::<PathBuf>::new());
}

#[test]
fn what_is_somebody_else_s_or_the_agent_s_own_is_left_alone() {
    let world = world("units_others");
    unit(&world, "script-a.service", ASKS);
    let ended = boot(
        &world,
        Cgroups::Unified,
        "systemctl start script-a.service; now script-a.service github.com\n\
         BLACKSTART attach --unit script-a.service --quiet 2>said & other=$!\n\
         soon 'grep -q \"attached to\" said'\n\
         agent --guard 'script*.service=deny.yaml'\n\
         soon 'grep -q \"script-a.service is not guarded for now\" told'\n\
         now script-a.service github.com\n\
         kill $other; wait $other\n\
         guarded script-a.service 1; now script-a.service github.com\n\
         curl -sS http://github.com/\n\
         kill $agent; wait $agent\n",
    )
    .succeeds();
    assert_eq!(
        ended.stdout,
        "github.com 0\ngithub.com 0\ngithub.com 6\nhello from github\n",
        "{}",
        told(&world)
    );
    assert!(
        told(&world).contains("script.service is not guarded: the agent itself is in it"),
        "{}",
        told(&world)
    );
    assert_eq!(world.left_behind(), Vec::<PathBuf>::new());
}

#[test]
fn a_policy_that_breaks_meanwhile_opens_no_unit() {
    let world = world("units_broken");
    unit(&world, "deploy-a.service", ASKS);
    let ended = boot(
        &world,
        Cgroups::Unified,
        "agent --guard 'deploy-*.service=deny.yaml'\n\
         echo 'rules: [' >deny.yaml\n\
         systemctl start deploy-a.service; guarded deploy-a.service 1; now deploy-a.service github.com\n\
         kill $agent; wait $agent\n",
    )
    .succeeds();
    assert_eq!(ended.stdout, "github.com 6\n", "{}", told(&world));
    assert!(
        told(&world).contains("deploy-*.service are judged as before"),
        "{}",
        told(&world)
    );
}

#[test]
fn a_rule_that_cannot_hold_is_told_before_anybody_may_call() {
    let world = world("units_wrong");
    let closed = world.policy("closed.yaml", "mode: enforce\ndefault: deny\n");
    let refused = |rule: &str| {
        let line = [
            &blackstart_lab::guard::binary(),
            "agent",
            &format!("--socket={}/agent.sock", world.dir().display()),
            "--guard",
            rule,
        ];
        let ended = world.run(&line).exits(125);
        assert!(!ended.stderr.contains("takes calls"), "{ended:?}");
        assert!(!world.dir().join("agent.sock").exists());
        ended.stderr
    };
    for (rule, words) in [
        ("*", "is all of them"),
        ("*.service", "is all of them"),
        ("deploy-*", "write `deploy-*.service`"),
        ("deploy.timer", "name the service that it starts"),
        ("deploy[ab].service", "'[' is in none"),
        ("user@1000.service", "name single services"),
        ("deploy.service=", "no file is named"),
        ("deploy.service=none.yaml", "none.yaml"),
        (
            &format!("deploy.service={closed}"),
            "--accept-gap unseen_families",
        ),
        // No systemd is here.
        ("deploy.service", "systemd is not PID 1 here"),
    ] {
        let told = refused(rule);
        assert!(
            told.contains("--guard") && told.contains(words),
            "{rule}: {told}"
        );
    }
}

#[test]
fn the_shipped_unit_guards_others() {
    let world = world("units_shipped");
    unit(&world, "deploy-a.service", ASKS);
    shipped(&world);
    let ended = boot(
        &world,
        Cgroups::Unified,
        "cp BLACKSTART /run/blackstart-lab; cp deny.yaml /run; : >told\n\
         systemctl start blackstart-agent.service; soon 'grep -q \"takes calls\" told'\n\
         systemctl start deploy-a.service; guarded deploy-a.service 1; now deploy-a.service github.com\n\
         systemctl kill --signal=KILL blackstart-agent.service; now deploy-a.service github.com\n\
         guarded deploy-a.service 2; now deploy-a.service github.com\n\
         systemctl stop blackstart-agent.service; now deploy-a.service github.com\n\
         BLACKSTART_STATE=/run/blackstart /run/blackstart-lab runs list | grep -c ' attached'\n\
         ls /sys/fs/bpf/blackstart 2>/dev/null || true\n",
    )
    .succeeds();
    assert_eq!(
        ended.stdout,
        "github.com 6\ngithub.com 6\ngithub.com 6\ngithub.com 0\n2\n",
        "{}",
        told(&world)
    );
}

#[test]
fn a_unit_is_told_of_while_it_goes_on_and_a_reload_keeps_the_agent_s_own_guardrails() {
    let world = world("units_meanwhile");
    unit(&world, "deploy-a.service", ASKS);
    let log = world.dir().join("runs.jsonl");
    world.file("targets", &format!("file:{}\n", log.display()));
    let policy = |rules: &str| {
        format!("apiVersion: blackstart.dev/v1\nkind: Policy\nmode: enforce\nrules: {rules}\n")
    };
    world.file("own.yaml", &policy("[{deny: mirror.internal}]"));
    world.file("other.yaml", &policy("[{deny: other.internal}]"));
    let ended = boot(
        &world,
        Cgroups::Unified,
        "export BLACKSTART_NOTIFY=DIR/targets\n\
         agent --policy own.yaml --notify-every 1s --guard 'deploy-*.service=deny.yaml'\n\
         systemctl start deploy-a.service; guarded deploy-a.service 1\n\
         now deploy-a.service github.com; now deploy-a.service mirror.internal\n\
         soon 'grep -q github.com runs.jsonl'; soon 'BLACKSTART runs list | grep -q \"attached to deploy-a.service, goes on\"'\n\
         run=$(sed -n 's/^.*run \\([^ ]*\\): deploy-a.service, guarded.*$/\\1/p' told)\n\
         cd /; BLACKSTART reload $run --policy DIR/other.yaml; cd DIR\n\
         now deploy-a.service github.com; now deploy-a.service mirror.internal\n\
         systemctl stop deploy-a.service; over 1\n\
         systemctl start deploy-a.service; guarded deploy-a.service 2\n\
         now deploy-a.service github.com; now deploy-a.service mirror.internal\n\
         kill $agent; wait $agent\n",
    )
    .succeeds();
    // By another policy as long as that start goes on, and by the rule's again with the next one.
    assert_eq!(
        ended.stdout,
        "github.com 6\nmirror.internal 6\ngithub.com 0\nmirror.internal 6\ngithub.com 6\nmirror.internal 6\n",
        "{}",
        told(&world)
    );
}

/// Runs a command of somebody without root by way of the agent, with a policy that denies nothing.
const CALLS: &str = "Type=oneshot\nExecStart=/bin/sh -c 'for name in github.com mirror.internal; do \
      setpriv --reuid 4001 --regid 4001 --groups 4242 -- /run/blackstart-lab run -q --agent=DIR/agent.sock -- \
      curl -sS -m 20 -o /dev/null http://$name/ 2>>UNIT.said; echo $name $? >>UNIT.asked; done'\n";

#[test]
fn who_calls_from_such_a_unit_takes_its_denials_along() {
    let world = world("units_calls");
    unit(&world, "deploy-a.service", CALLS);
    unit(&world, "other.service", CALLS);
    let ended = boot(
        &world,
        Cgroups::Unified,
        "cp BLACKSTART /run/blackstart-lab; chmod 755 /run/blackstart-lab\n\
         agent --group 4242 --guard 'deploy-*.service=deny.yaml'\n\
         systemctl start deploy-a.service other.service\n\
         cat deploy-a.service.asked other.service.asked\n\
         kill $agent; wait $agent\n",
    )
    .succeeds();
    let said = fs::read_to_string(world.dir().join("deploy-a.service.said")).unwrap_or_default();
    assert_eq!(
        ended.stdout,
        "github.com 6\nmirror.internal 0\ngithub.com 0\nmirror.internal 0\n",
        "{said} {}",
        told(&world)
    );
}

#[test]
fn of_several_rules_the_first_counts_and_a_run_may_follow_what_one_guards() {
    let world = world("units_several");
    for name in ["deploy-a.service", "deploy-b.service"] {
        unit(&world, name, ASKS);
    }
    world.policy("follow.yaml", "follow: [deploy-b.service]\n");
    let ended = boot(
        &world,
        Cgroups::Unified,
        "agent --guard deploy-a.service --guard 'deploy-*.service=deny.yaml'\n\
         systemctl start deploy-a.service; guarded deploy-a.service 1; now deploy-a.service github.com\n\
         BLACKSTART run -q --policy follow.yaml --report r.json -- systemctl start deploy-b.service 2>said\n\
         guarded deploy-b.service 1; now deploy-b.service github.com\n\
         kill $agent; wait $agent\n",
    )
    .succeeds();
    assert_eq!(
        ended.stdout,
        "github.com 0\ngithub.com 6\n",
        "{}",
        told(&world)
    );
    let reports = reports(&world);
    let [observed] = of(&reports, "deploy-a.service")[..] else {
        panic!("{}", told(&world))
    };
    assert!(judged(observed, "github.com", Verdict::Allow));
    let run: Report =
        serde_json::from_slice(&fs::read(world.dir().join("r.json")).unwrap()).unwrap();
    assert_eq!(run.run.followed.len(), 1, "{:?}", run.run.followed);
    assert_eq!(of(&reports, "deploy-b.service").len(), 1);
}
