//! The egress lockfile: written by a run, and what later runs differ in.

use std::fs;
use std::path::{Path, PathBuf};

use blackstart_lab::{Guard, Guarded, World, Zone, program};

struct Scene {
    world: World,
    directory: PathBuf,
}

impl Scene {
    fn new(name: &str) -> Self {
        let world = World::new(name);
        let mut zone = Zone::new();
        for name in ["github.com", "mirror.internal"] {
            let node = world.node(name.split('.').next().unwrap());
            node.http();
            zone = zone.host(name, &node);
        }
        world.dns(zone);
        let directory = world.dir().join("deployment");
        fs::create_dir(&directory).unwrap();
        // A tool of the deployment's own, so that it can change.
        let curl = ["/usr/bin/curl", "/bin/curl"].map(Path::new);
        let curl = curl.into_iter().find(|path| path.exists()).unwrap();
        program::copy(curl, directory.join("fetch"));
        Self { world, directory }
    }

    fn lock(&self) -> PathBuf {
        self.directory.join("blackstart.lock")
    }

    /// A deployment that fetches from these hosts.
    fn deploy(&self, hosts: &[&str], guard: Guard<'_>) -> Guarded {
        let fetch = self.directory.join("fetch");
        let lines = hosts.iter().map(|host| {
            format!(
                "{} -sS -o /dev/null http://{host}/ || exit 1\n",
                fetch.display()
            )
        });
        let script = format!("#!/bin/sh\n{}", lines.collect::<String>());
        let path = self.directory.join("deploy.sh");
        program::write(&path, &script);
        guard.run(&[path.display().to_string()])
    }
}

fn told(run: &Guarded) -> Vec<(String, String)> {
    let of_lock = run
        .report()
        .findings
        .iter()
        .filter(|finding| finding.kind.starts_with("lock_"));
    of_lock
        .map(|finding| (finding.kind.clone(), finding.title.clone()))
        .collect()
}

#[test]
fn what_is_new_changed_or_gone_is_told() {
    let scene = Scene::new("lock");
    let guard = || scene.world.guard();
    // Nothing there, nothing said.
    let run = scene.deploy(&["mirror.internal"], guard()).exits(0);
    assert_eq!(told(&run), []);
    let run = scene
        .deploy(&["mirror.internal"], guard().arg("--update-lock"))
        .exits(0)
        .warns("wrote the lockfile");
    drop(run);
    let text = fs::read_to_string(scene.lock()).unwrap();
    let lock: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        lock["destinations"],
        serde_json::json!({ "mirror.internal:80/tcp": ["./fetch"] }),
        "{text}"
    );
    let digest = lock["executables"]["./fetch"].as_str().unwrap();
    assert!(
        digest.starts_with("sha256:") && digest.len() == 71,
        "{digest}"
    );

    let run = scene.deploy(&["mirror.internal"], guard()).exits(0);
    assert_eq!(told(&run), []);

    // The tool is another one now, and calls somewhere else too.
    let fetch = scene.directory.join("fetch");
    let mut bytes = fs::read(&fetch).unwrap();
    bytes.push(0);
    program::write(&fetch, bytes);
    let run = scene
        .deploy(&["mirror.internal", "github.com"], guard())
        .exits(0);
    let kinds: Vec<_> = told(&run).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["lock_new", "lock_changed"], "{:#?}", told(&run));
    let run = run.warns(
        "./fetch, which has changed since the lock was written, newly contacts github.com:80/tcp",
    );
    drop(run);

    // Gone, and said only of a run that succeeded.
    let run = scene.deploy(&["github.com"], guard()).exits(0);
    let gone = (
        "lock_unused".to_owned(),
        "the lock has mirror.internal:80/tcp, and this run did not contact it".to_owned(),
    );
    assert!(told(&run).contains(&gone), "{:#?}", told(&run));
    let run = scene.deploy(&["nowhere.internal"], guard()).exits(1);
    assert!(
        told(&run).iter().all(|(kind, _)| kind != "lock_unused"),
        "{:#?}",
        told(&run)
    );

    // A run that failed writes no lock.
    let before = fs::read(scene.lock()).unwrap();
    let run = scene
        .deploy(&["nowhere.internal"], guard().arg("--update-lock"))
        .exits(1)
        .warns("stays as it is");
    drop(run);
    assert_eq!(fs::read(scene.lock()).unwrap(), before);
}

#[test]
fn a_lock_that_cannot_be_read_holds_up_nothing_unless_it_was_named() {
    let scene = Scene::new("lock-broken");
    fs::write(scene.lock(), "{\"version\": 1,").unwrap();
    let run = scene
        .deploy(&["mirror.internal"], scene.world.guard())
        .exits(0)
        .warns("is left out, it cannot be read");
    drop(run);
    let named = |path: &Path| {
        let guard = scene
            .world
            .guard()
            .arg(&format!("--lock={}", path.display()));
        scene.deploy(&["mirror.internal"], guard).ended
    };
    let broken = named(&scene.lock());
    assert!(
        broken.code == 125 && broken.stderr.contains("cannot read the lockfile"),
        "{broken:?}"
    );
    // Whatever it is, it is not written over: a script that was named by mistake is still there.
    let update = |path: &Path| {
        let guard = scene.world.guard().arg("--update-lock");
        let guard = guard.arg(&format!("--lock={}", path.display()));
        scene.deploy(&["mirror.internal"], guard).ended
    };
    for path in [scene.lock(), scene.directory.join("deploy.sh")] {
        let ended = update(&path);
        assert!(
            ended.code == 125 && ended.stderr.contains("remove it first"),
            "{ended:?}"
        );
    }
    let absent = named(&scene.directory.join("other.lock"));
    assert!(
        absent.code == 125 && absent.stderr.contains("write a first one"),
        "{absent:?}"
    );
    let ended = scene
        .world
        .guard()
        .arg("--update-lock")
        .run(&["true"])
        .ended;
    assert!(
        ended.code == 125 && ended.stderr.contains("--lock FILE"),
        "{ended:?}"
    );
}

#[test]
fn it_is_found_beside_the_script_however_that_is_started() {
    let scene = Scene::new("lock-beside");
    let run = scene
        .deploy(
            &["mirror.internal"],
            scene.world.guard().arg("--update-lock"),
        )
        .exits(0);
    drop(run);
    let script = scene.directory.join("deploy.sh").display().to_string();
    fs::write(
        &script,
        format!(
            "{}{} -sS -o /dev/null http://github.com/\n",
            fs::read_to_string(&script).unwrap(),
            scene.directory.join("fetch").display()
        ),
    )
    .unwrap();
    for line in [
        &["bash", &script][..],
        &["/bin/bash", &script],
        &["env", "A=1", "sh", &script],
    ] {
        let run = scene.world.guard().run(line).exits(0);
        let kinds: Vec<_> = told(&run).into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, ["lock_new"], "{line:?}: {:#?}", told(&run));
    }
    // An installed shell has no lock of its own.
    let guard = scene.world.guard().arg("--update-lock");
    let ended = guard.run(&["/bin/sh", "-c", "true"]).ended;
    assert!(
        ended.code == 125 && ended.stderr.contains("--lock FILE"),
        "{ended:?}"
    );
    assert!(!Path::new("/bin/blackstart.lock").exists());
}
