//! `graph import --out`: what it replaces, and what it leaves alone.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn import(dir: &Path, out: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_blackstart"))
        .args([
            "graph",
            "import",
            "--out",
            out,
            "jaeger",
            "dependencies.json",
        ])
        .current_dir(dir)
        .env("BLACKSTART_STATE", dir.join("state"))
        .output()
        .unwrap()
}

#[test]
fn what_a_person_wrote_stays() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let jaeger = r#"{"data":[{"parent":"shop","child":"mysql","callCount":3}]}"#;
    fs::write(dir.join("dependencies.json"), jaeger).unwrap();

    for written in [
        "apiVersion: blackstart.dev/v1\nkind: Service\nname: shop\n",
        "",
        "{\"kind\": 3}",
    ] {
        fs::write(dir.join("shop.yaml"), written).unwrap();
        let refused = import(dir, "shop.yaml");
        let said = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(125), "{said}");
        assert!(said.contains("not written by an import"), "{said}");
        assert_eq!(fs::read_to_string(dir.join("shop.yaml")).unwrap(), written);
    }

    // An import makes place for the next, through a link.
    std::os::unix::fs::symlink("real.json", dir.join("link.json")).unwrap();
    fs::write(
        dir.join("real.json"),
        r#"{"kind":"Import","from":"an older one"}"#,
    )
    .unwrap();
    for _ in 0..2 {
        let done = import(dir, "link.json");
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        assert!(dir.join("link.json").is_symlink());
        assert!(
            fs::read_to_string(dir.join("real.json"))
                .unwrap()
                .contains("shop")
        );
    }
}
