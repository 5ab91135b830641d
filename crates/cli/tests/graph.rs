//! `blackstart graph`, from the files to what is printed.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

/// A directory with a catalog, and where reports and baselines go.
struct Scene {
    dir: tempfile::TempDir,
}

/// What a command came to.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Scene {
    /// Services, each by its keys.
    fn of(services: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text: String = services
            .iter()
            .map(|keys| format!("---\napiVersion: blackstart.dev/v1\nkind: Service\n{keys}\n"))
            .collect();
        fs::write(dir.path().join("c.yaml"), text).unwrap();
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// `graph` with these words, and the catalog.
    fn graph(&self, words: &[&str]) -> Ended {
        let (verb, rest) = words.split_first().unwrap();
        self.run(&[&["graph", verb, "--catalog", "c.yaml"], rest].concat())
    }

    fn run(&self, words: &[&str]) -> Ended {
        let ended = Command::new(env!("CARGO_BIN_EXE_blackstart"))
            .args(words)
            .current_dir(self.path())
            .env_remove("BLACKSTART_CATALOG")
            .output()
            .unwrap();
        Ended {
            code: ended.status.code(),
            out: String::from_utf8(ended.stdout).unwrap(),
            err: String::from_utf8(ended.stderr).unwrap(),
        }
    }

    fn json(&self, words: &[&str]) -> Value {
        let ended = self.graph(&[words, &["--format", "json"]].concat());
        serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
    }
}

#[test]
fn a_circle_that_no_deployment_closes_is_told_by_every_verb() {
    let scene = Scene::of(&["name: a\nneeds: [b]", "name: b\nneeds: [a]"]);
    let loops = scene.graph(&["loops"]).out;
    assert!(
        loops.starts_with("no deployment closes a circle that is known of\ncannot start without each other  a, b\n  a needs b to run\n"),
        "{loops}"
    );
    let document = scene.json(&["loops"]);
    assert_eq!(document["loops"], json!([]));
    assert_eq!(document["knots"][0]["component"], json!(["a", "b"]));
    assert_eq!(document["knots"][0]["steps"][1]["to"], "a");
    let check = scene.graph(&["check"]);
    assert_eq!(check.code, Some(1), "{check:?}");
    assert!(
        check
            .out
            .contains("warning: a, b cannot start without each other"),
        "{check:?}"
    );
    let page = scene.graph(&["export", "--to", "html"]).out;
    assert!(!page.contains("No circle was found"), "{page}");
    assert!(page.contains("What lies on a circle is drawn in red"));
    assert!(page.contains("; no deployment closes a circle that is known of; 2 services cannot start without each other"));
    assert!(
        scene
            .graph(&["export", "--to", "dot"])
            .out
            .contains("n0 -> n1 [label=\"run\", color=red")
    );
    assert!(
        scene
            .graph(&["export", "--to", "mermaid"])
            .out
            .contains("n0 ==>|run| n1")
    );

    let alone = Scene::of(&["name: a\nneeds: [a]", "name: b"]);
    for verb in [&["loops"][..], &["order"], &["impact", "a"]] {
        let told = alone.graph(verb).out;
        assert!(told.contains("cannot start without itself  a"), "{told}");
        assert!(!told.contains("each other"), "{told}");
    }
    let page = alone.graph(&["export", "--to", "html"]).out;
    assert!(!page.contains("each other"), "{page}");

    let none = Scene::of(&["name: a\nneeds: [b]", "name: b"]);
    assert_eq!(none.graph(&["loops"]).out, "no circle that is known of\n");
    let page = none.graph(&["export", "--to", "html"]).out;
    assert!(page.contains("No circle was found."));
}

#[test]
fn a_circle_that_is_too_large_to_be_drawn_is_one_all_the_same() {
    let ring = |first: &str| -> Vec<String> {
        (0..80)
            .map(|n| {
                let next = (n + 1) % 80;
                let phase = if n == 0 { first } else { "run" };
                format!("name: s{n}\nneeds: [{{ service: s{next}, for: {phase} }}]")
            })
            .collect()
    };
    for phase in ["deploy", "run"] {
        let services = ring(phase);
        let services: Vec<&str> = services.iter().map(String::as_str).collect();
        let page = Scene::of(&services).graph(&["export", "--to", "html"]).out;
        assert!(
            page.contains("The circles are too large to be drawn"),
            "{phase}"
        );
        assert!(!page.contains("There is no circle"), "{phase}");
        assert!(
            page.contains("80 services cannot start without each other"),
            "{phase}"
        );
    }
    // One that can be drawn beside one that cannot.
    let mut services = ring("run");
    services.push("name: x\nneeds: [{ service: y, for: deploy }]".to_owned());
    services.push("name: y\nneeds: [x]".to_owned());
    let services: Vec<&str> = services.iter().map(String::as_str).collect();
    let page = Scene::of(&services).graph(&["export", "--to", "html"]).out;
    assert!(page.contains("What lies on a circle is drawn in red"));
    assert!(page.contains("1 circle is not drawn"));
}
