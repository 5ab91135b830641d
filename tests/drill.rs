//! Outages in small: what a run makes of them, told from live runs.

use std::time::Duration;

use blackstart_core::drill::Fault;
use blackstart_core::report::{Drill, DrillOutcome, Verdict};
use blackstart_lab::{Guard, Guarded, World, Zone};

const CATALOG: &str = "\
apiVersion: blackstart.dev/v1
kind: Service
name: github
owner: team-git
provides: [.github.com]
---
apiVersion: blackstart.dev/v1
kind: Service
name: migrations
provides: [\"migrations.internal:80\"]
needs: [github]
---
apiVersion: blackstart.dev/v1
kind: Service
name: mirror
provides: [mirror.internal]
---
apiVersion: blackstart.dev/v1
kind: Service
name: mute
";

struct Scene {
    world: World,
    catalog: String,
}

impl Scene {
    fn new(name: &str) -> Self {
        let world = World::new(name);
        let mut zone = Zone::new();
        for name in ["github.com", "migrations.internal", "mirror.internal"] {
            let node = world.node(name.split('.').next().unwrap());
            node.http();
            zone = zone.host(name, &node);
        }
        world.dns(zone);
        let catalog = world.file("catalog.yaml", CATALOG).display().to_string();
        Self { world, catalog }
    }

    fn guard(&self) -> Guard<'_> {
        self.world
            .guard()
            .arg("--service=mysql")
            .arg(&format!("--catalog={}", self.catalog))
    }

    fn drill(&self, fault: &str, script: &str) -> Guarded {
        self.guard()
            .arg("--down=github")
            .arg(&format!("--fault={fault}"))
            .arg("--time-limit=5s")
            .run(&["sh", "-c", script])
    }
}

fn told(run: &Guarded) -> &Drill {
    run.report()
        .run
        .drill
        .as_ref()
        .expect("the report has the drill")
}

#[test]
fn what_is_down_is_out_of_reach_with_all_that_needs_it() {
    let scene = Scene::new("drill-reach");
    let fetch = |host: &str| format!("curl -sS -o /dev/null http://{host}/; echo {host} $?");
    let script = ["github.com", "migrations.internal", "mirror.internal"]
        .map(fetch)
        .join("; ");
    for (fault, code) in [("refuse", 7), ("nxdomain", 6)] {
        let run = scene.drill(fault, &script).exits(0);
        let run = run
            .says(&format!("github.com {code}"))
            .says(&format!("migrations.internal {code}"))
            .says("mirror.internal 0")
            .warns("drill github")
            .warns("managed");
        let drill = told(&run);
        assert_eq!(drill.outcome, DrillOutcome::Managed, "{drill:?}");
        assert_eq!(drill.down, ["github"]);
        assert!(drill.attempts >= 2, "{drill:?}");
        assert!(drill.subjects.is_empty() && drill.usual_seconds.is_none());
        assert!(run.findings("drill_failed").is_empty());
        let lookup = match fault {
            "refuse" => Verdict::Allow,
            _ => Verdict::Deny,
        };
        assert_eq!(run.verdict_on("github.com"), lookup, "{fault}");
        // Outside of the run nothing is down.
        let outside = scene
            .world
            .host()
            .start(&["curl", "-sS", "http://github.com/"])
            .wait();
        assert_eq!(outside.code, 0, "{outside:?}");
    }
}

#[test]
fn a_run_fails_hangs_or_manages() {
    let scene = Scene::new("drill-outcome");
    // Two runs as usual: with nothing down.
    let fails = "curl -sS -o /dev/null http://github.com/ && sleep 0.3";
    for _ in 0..2 {
        scene.guard().run(&["sh", "-c", fails]).exits(0);
    }
    let run = scene.drill("refuse", fails).exits(7).warns("failed");
    let drill = told(&run);
    assert_eq!(
        (drill.outcome, drill.fault),
        (DrillOutcome::Failed, Fault::Refuse)
    );
    assert_eq!(drill.usual_runs, 2);
    assert!(drill.usual_seconds.unwrap() >= 0.3, "{drill:?}");
    assert!(drill.lost_seconds.unwrap() < 0.0, "{drill:?}");
    let behind = drill.subjects.first().copied();
    assert!(run.chain(behind)[0].starts_with("curl"), "{drill:?}");
    let [finding] = run.findings("drill_failed")[..] else {
        panic!("{:#?}", run.report().findings)
    };
    assert!(
        finding
            .title
            .contains("the deploy of mysql fails while github is down, in curl")
    );

    // Lost packets make a tool wait: how long is its own affair, up to the limit.
    let hangs = "curl -sS -o /dev/null http://migrations.internal/";
    let run = scene
        .drill("blackhole", hangs)
        .exits(124)
        .warns("hung")
        .within(Duration::from_secs(60));
    let drill = told(&run);
    assert_eq!(drill.outcome, DrillOutcome::Hung, "{drill:?}");
    let behind = drill.subjects.first().copied();
    assert!(run.chain(behind)[0].starts_with("curl"), "{drill:?}");
    assert_eq!(run.findings("drill_hung").len(), 1);

    let manages = "curl -sS -m 1 -o /dev/null http://github.com/ || true";
    let run = scene.drill("blackhole", manages).exits(0);
    assert_eq!(told(&run).outcome, DrillOutcome::Managed);
    assert!(told(&run).attempts >= 1);

    // Nothing of what is down was asked for: the drill shows nothing, and says so.
    let run = scene.drill("refuse", "exit 3").exits(3);
    assert_eq!(
        (told(&run).attempts, told(&run).outcome),
        (0, DrillOutcome::Failed)
    );
    let run = run.warns("reached for nothing that is down");
    drop(run);
}

#[test]
fn several_services_are_down_at_once() {
    let scene = Scene::new("drill-several");
    let fetch = |host: &str| format!("curl -sS -o /dev/null http://{host}/; echo {host} $?");
    let script = ["github.com", "mirror.internal"].map(fetch).join("; ");
    let words = ["sh", "-c", &script];
    let refused = |run: Guarded| {
        let run = run
            .exits(0)
            .says("github.com 7")
            .says("mirror.internal 7")
            .warns("drill github, mirror");
        assert_eq!(told(&run).down, ["github", "mirror"]);
    };
    refused(scene.guard().arg("--down=mirror,github").run(&words));
    // The verb of its own is the same.
    let catalog = format!("--catalog={}", scene.catalog);
    let line = [
        "drill",
        "mirror,github",
        &catalog,
        "--",
        "sh",
        "-c",
        &script,
    ];
    let ended = scene.world.guard().blackstart(&line);
    assert_eq!(ended.code, 0, "{ended:?}");
    for wanted in ["github.com 7", "mirror.internal 7"] {
        assert!(ended.stdout.contains(wanted), "{ended:?}");
    }
    assert!(ended.stderr.contains("drill github, mirror"), "{ended:?}");
}

#[test]
fn a_socket_is_down_as_if_nobody_listened() {
    let scene = Scene::new("drill-socket");
    let socket = scene.world.dir().join("local.sock");
    let _daemon = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let socket = socket.display();
    let service = format!(
        "---\napiVersion: blackstart.dev/v1\nkind: Service\nname: local\nprovides: [\"unix:{socket}\"]\n"
    );
    let catalog = scene
        .world
        .file("local.yaml", &format!("{CATALOG}{service}"));
    let connect = format!(
        "import socket; socket.socket(socket.AF_UNIX).connect('{socket}'); print('connected')"
    );
    let words = ["python3", "-c", &connect];
    let drill = |down: &str| {
        let guard = scene.world.guard();
        let guard = guard.arg(&format!("--catalog={}", catalog.display()));
        guard.arg(&format!("--down={down}")).run(&words)
    };
    let other = drill("github").exits(0).says("connected");
    assert_eq!(told(&other).attempts, 0);
    let run = drill("local");
    let run = run.exits(1).warns("ConnectionRefusedError");
    let told = told(&run);
    assert_eq!((told.outcome, told.attempts), (DrillOutcome::Failed, 1));
}

#[test]
fn a_drill_finds_the_catalog_of_a_checkout_and_a_policy_does_not() {
    let scene = Scene::new("drill-here");
    let checkout = scene.world.dir().join("checkout");
    std::fs::create_dir_all(checkout.join("catalog")).unwrap();
    std::fs::write(checkout.join("catalog/all.yaml"), CATALOG).unwrap();
    let run = |directory: &std::path::Path, words: &str| {
        let change = format!("cd {} && exec \"$@\"", directory.display());
        let line = ["sh", "-c", &change, "sh"].map(str::to_owned).to_vec();
        let guard = scene.world.guard().through(line).arg(words);
        let curl = ["curl", "-sS", "-o", "/dev/null", "http://github.com/"];
        guard.run(&curl).ended
    };
    let here = run(&checkout, "--down=github");
    assert_eq!(here.code, 7, "{here:?}");
    assert!(
        here.stderr.contains("the services are those of"),
        "{here:?}"
    );
    let nothing = run(scene.world.dir(), "--down=github");
    assert_eq!(nothing.code, 125, "{nothing:?}");
    assert!(nothing.stderr.contains("--catalog DIR"), "{nothing:?}");
    let policy = "apiVersion: blackstart.dev/v1\nkind: Policy\nmode: enforce\nprotect: [github]\n";
    let policy = scene.world.file("protect.yaml", policy);
    let protect = run(&checkout, &format!("--policy={}", policy.display()));
    assert_eq!(protect.code, 125, "{protect:?}");
    assert!(protect.stderr.contains("catalog"), "{protect:?}");
}

#[test]
fn what_cannot_be_played_is_told_before_anything_runs() {
    let scene = Scene::new("drill-refused");
    let marker = scene.world.dir().join("ran");
    let touch = ["touch".to_owned(), marker.display().to_string()];
    let refused = |arguments: &[&str], wanted: &str| {
        let mut guard = scene.guard();
        for argument in arguments {
            guard = guard.arg(argument);
        }
        let ended = guard.run(&touch).ended;
        assert_eq!(ended.code, 125, "{arguments:?}: {ended:?}");
        assert!(ended.stderr.contains(wanted), "{arguments:?}: {ended:?}");
        assert!(!marker.exists());
    };
    refused(&["--down=githup"], "did you mean \"github\"?");
    refused(&["--down=mute"], "nothing of it can be put out of reach");
    refused(&["--down=github", "--mode=observe"], "refuses nothing");
    refused(&["--down=github", "--fault=slow"], "invalid value 'slow'");
    refused(&["--down=github", "--time-limit=3"], "has no unit");
    refused(&["--down=github", "--break-glass=x"], "cannot be used with");
    refused(&["--fault=refuse"], "--down");
}

#[test]
fn a_drill_that_somebody_got_past_shows_nothing() {
    let scene = Scene::new("drill-past");
    let top = scene.world.cgroup("past");
    // As a container runtime does it: nobody takes the process back from a cgroup that was made for it.
    let script = format!(
        "mkdir {0}/$$ && echo $$ >{0}/$$/cgroup.procs && curl -sS http://github.com/",
        top.display()
    );
    let run = scene
        .drill("refuse", &script)
        .exits(0)
        .says("hello from github")
        .warns("not known: it succeeded, and not all of what it reached for was seen");
    assert_eq!(told(&run).outcome, DrillOutcome::Unknown);
    assert_eq!(
        run.report().run.guarded,
        blackstart_core::report::Guarded::Partly
    );
    // It may have been moved back once or more before it was let go.
    let found = run.findings("left_cgroup");
    let gone = found
        .iter()
        .any(|it| it.title.contains("not seen from then on"));
    assert!(gone, "{found:#?}");
    assert!(run.findings("partly_guarded").is_empty());
}
