//! What is typed, what the policy says, and what goes first.

use clap::Parser as _;

use super::*;

const POLICY: &str = "apiVersion: blackstart.dev/v1\nkind: Policy\nservice: mysql\nmode: enforce\nrules:\n  - deny: .github.com\n";

fn typed(words: &[&str]) -> args::Run {
    let words = ["blackstart", "run"].iter().chain(words);
    match args::Typed::parse_from(words).command {
        args::Command::Run(run) => run.whole(),
        other => panic!("parsed as {other:?}"),
    }
}

/// A host without guardrails.
fn around() -> Surroundings {
    Surroundings {
        state: None,
        guardrails: PathBuf::from("/nowhere/policy.d"),
        all_final: false,
        today: Day::parse("2026-11-24").unwrap(),
        directory: PathBuf::from("/"),
        catalog: catalog_files::Places {
            variable: None,
            host: PathBuf::from("/nowhere/catalog"),
            directory: PathBuf::from("/nowhere"),
        },
    }
}

#[test]
fn nothing_typed_is_observe_without_a_policy() {
    let order = run(typed(&["--", "true"]), &around()).unwrap();
    assert_eq!((order.mode, order.service), (Mode::Observe, None));
    assert_eq!(order.state, Path::new("/var/lib/blackstart"));
    assert!(order.policy.is_none());
}

#[test]
fn what_was_typed_goes_before_the_policy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.yaml");
    std::fs::write(&path, POLICY).unwrap();
    let path = path.to_str().unwrap();

    let order = run(typed(&["--policy", path, "true"]), &around()).unwrap();
    // What sha256sum says of the same bytes.
    let digest = "21cd9070df0dbafc5fa13fe52cb4f15cb59f12855c047a46813a818e63b112d4";
    assert_eq!(order.policy.unwrap().source.digest, digest);
    assert_eq!(
        (order.mode, order.service.as_deref()),
        (Mode::Enforce, Some("mysql"))
    );
    let order = run(
        typed(&[
            "--policy",
            path,
            "--mode",
            "observe",
            "--service",
            "s",
            "true",
        ]),
        &around(),
    )
    .unwrap();
    assert_eq!(
        (order.mode, order.service.as_deref()),
        (Mode::Observe, Some("s"))
    );
}

#[test]
fn everything_wrong_is_found_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.yaml");
    std::fs::write(&path, "kind: Polcy\n").unwrap();
    let words = [
        "--policy",
        path.to_str().unwrap(),
        "--report",
        "x.pdf",
        "--report",
        "/nowhere/x.json",
        "true",
    ];
    let mut around = around();
    around.state = Some("state".into());
    let problems = run(typed(&words), &around).unwrap_err();
    assert_eq!(problems.len(), 4);
    assert!(matches!(problems[0], Problem::Policy { .. }));
    let Problem::Message(state) = &problems[1] else {
        panic!()
    };
    assert!(state.contains("relative path"), "{state}");
}

#[test]
fn a_policy_in_the_tree_that_is_deployed_is_remarked() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::create_dir_all(dir.join("repo/.git")).unwrap();
    std::fs::write(dir.join("repo/deploy.sh"), "").unwrap();
    std::fs::write(dir.join("repo/pack.yaml"), POLICY).unwrap();
    let including = POLICY.replace("rules:", "include: [repo/pack.yaml]\nrules:");
    std::fs::write(dir.join("including.yaml"), including).unwrap();
    let mut around = around();
    around.directory = dir.to_owned();
    let remarks = |policy: &str, command: &[&str]| {
        let policy = dir.join(policy);
        let words = [&["--policy", policy.to_str().unwrap(), "--"], command].concat();
        let order = run(typed(&words), &around).unwrap();
        (order.policy.unwrap().remarks, order.origin)
    };
    // It is told of a run, and no error; so is what is included from there.
    for policy in ["repo/pack.yaml", "including.yaml"] {
        let (remarks, _) = remarks(policy, &["repo/deploy.sh"]);
        assert_eq!(remarks.len(), 1);
        let lies = "pack.yaml lies in the tree that is deployed";
        assert!(remarks[0].contains(lies), "{}", remarks[0]);
    }
    let (before, origin) = remarks("repo/pack.yaml", &["true"]);
    assert_eq!(before.len(), 0);
    // And of a policy that takes over, wherever it is asked for.
    let reload = |origin: &Origin, policy: &str| {
        let policy = dir.join(policy);
        let words = [
            "blackstart",
            "reload",
            "RUN",
            "--policy",
            policy.to_str().unwrap(),
        ];
        let args::Command::Reload(typed) = args::Typed::parse_from(words).command else {
            panic!("parsed as something else");
        };
        super::reload(&typed, origin, &around)
            .unwrap()
            .unwrap()
            .remarks
    };
    assert_eq!(reload(&origin, "repo/pack.yaml").len(), 0);
    let (_, origin) = remarks("repo/pack.yaml", &["repo/deploy.sh"]);
    assert_eq!(reload(&origin, "including.yaml").len(), 1);
}
