//! `blackstart graph`, from the files to what is printed.

mod forms;
mod gate;
mod scene;

use std::fs;
use std::path::Path;
use std::process::Command;

use scene::{Scene, report};
use serde_json::json;

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
    assert_eq!(document["cannot_start"][0]["component"], json!(["a", "b"]));
    assert_eq!(document["cannot_start"][0]["steps"][1]["to"], "a");
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

#[test]
fn a_catalog_that_nobody_typed_is_looked_for_and_told() {
    let scene = Scene::of(&["name: b"]);
    if !Path::new("/etc/blackstart/catalog").exists() {
        let nothing = scene.run(&["graph", "order"]);
        assert_eq!(nothing.code, Some(125), "{nothing:?}");
        assert!(
            nothing.err.contains("name a catalog with --catalog DIR"),
            "{nothing:?}"
        );
    }
    let dir = scene.path().join("catalog");
    fs::create_dir(&dir).unwrap();
    fs::write(
        dir.join("a.yaml"),
        "apiVersion: blackstart.dev/v1\nkind: Service\nname: a\n",
    )
    .unwrap();
    let here = scene.run(&["graph", "order"]);
    assert_eq!((here.code, &*here.out), (Some(0), " 1  a\n"), "{here:?}");
    assert_eq!(here.err, "blackstart: the catalog is catalog\n");
    // The variable goes before it, and what was typed before both.
    let variable = |words: &[&str]| {
        let ended = Command::new(env!("CARGO_BIN_EXE_blackstart"))
            .args(words)
            .current_dir(scene.path())
            .env("BLACKSTART_CATALOG", "c.yaml")
            .env("BLACKSTART_STATE", scene.path().join("state"))
            .output()
            .unwrap();
        (
            String::from_utf8(ended.stdout).unwrap(),
            String::from_utf8(ended.stderr).unwrap(),
        )
    };
    let (out, err) = variable(&["graph", "order"]);
    assert_eq!(
        (&*out, &*err),
        (" 1  b\n", "blackstart: the catalog is c.yaml\n")
    );
    let (out, err) = variable(&["graph", "order", "--catalog", "catalog"]);
    assert_eq!((&*out, &*err), (" 1  a\n", ""));
    // A policy is read with the host's catalog, and never with one that happens to lie where it is read.
    fs::write(
        scene.path().join("p.yaml"),
        "apiVersion: blackstart.dev/v1\nkind: Policy\nrules:\n  - deny: service:b\n",
    )
    .unwrap();
    let (_, err) = variable(&["policy", "check", "p.yaml"]);
    assert!(!err.contains("catalog"), "{err}");
    let (out, _) = variable(&["policy", "explain", "--policy", "p.yaml", "b.example"]);
    assert!(!out.contains("no catalog"), "{out}");
    if !Path::new("/etc/blackstart/catalog").exists() {
        let other = scene.run(&["policy", "check", "p.yaml"]);
        assert_eq!(other.code, Some(1), "{other:?}");
        assert!(
            (other.out + &other.err).contains("catalog"),
            "nobody said which services there are"
        );
    }
}

#[test]
fn a_page_offers_a_rule_and_a_waiver_for_a_loop() {
    let scene = Scene::of(&[
        "name: mysql\nowner: team-db",
        "name: github\nprovides: [.github.com]\nneeds: [mysql]",
    ]);
    report(&scene, "r.json", Some("mysql"), &["api.github.com"]);
    let page = scene
        .graph(&["export", "--to", "html", "--runs", "r.json"])
        .out;
    let waiver =
        "- for: api.github.com\n  process: tool\n  owner: team-db\n  reason: WHY\n  expires: 2026-";
    assert!(page.contains(waiver), "{page}");
    assert!(
        page.contains("- deny: \"service:github\"")
            || page.contains("- deny: &#34;service:github")
            || page.contains("- deny: service:github"),
        "{page}"
    );
    // What is only declared was reached by nobody who could be let pass.
    let declared = Scene::of(&["name: a\nneeds: [{service: a, for: deploy}]"]);
    let page = declared.graph(&["export", "--to", "html"]).out;
    assert!(page.contains("declared loop") && !page.contains("Waiver, if it must be"));
}

/// A text of a million lines in which hundreds of places are wrong.
#[test]
fn what_is_wrong_in_a_million_lines_is_told_soon() {
    let scene = Scene::of(&["name: b"]);
    let needs: String = (0..1_000_000).map(|n| format!("- x{n}\n")).collect();
    let text = format!("apiVersion: blackstart.dev/v1\nkind: Service\nname: a\nneeds:\n{needs}");
    fs::write(scene.path().join("large.yaml"), text).unwrap();
    let began = std::time::Instant::now();
    let told = scene.run(&["graph", "loops", "--catalog", "large.yaml"]);
    let took = began.elapsed();
    assert_eq!(told.code, Some(1), "{}", told.err);
    assert_eq!(told.err.matches("error: no service is called").count(), 50);
    assert!(
        told.err.contains("\nand 151 more (151 of them errors)\n"),
        "{}",
        told.err
    );
    assert!(
        told.err
            .contains(" --> large.yaml:5:3\n  |\n5 | - x0\n  |   ^^\n"),
        "{}",
        told.err
    );
    // Seconds for reading. When each place was shown with all of the text, it was minutes.
    assert!(took.as_secs() < 60, "{took:?}");
}
