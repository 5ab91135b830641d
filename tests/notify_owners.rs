//! A finding goes to whoever owns what it is about.

use std::fs;

use blackstart_lab::World;
use serde_json::Value;

const CATALOG: &str = "\
apiVersion: blackstart.dev/v1
kind: Service
name: mysql
owner: team-db
---
apiVersion: blackstart.dev/v1
kind: Service
name: web
owner: team-web
";

const POLICY: &str =
    "mode: enforce\nrules:\n  - deny: .github.com\n    reason: it is served by this database\n";

#[test]
fn findings_go_to_their_owners_and_those_of_nobody_to_the_rest() {
    let (world, ..) = World::with_names("notify-owners");
    let sink = world.node("sink");
    let [db, web, rest] = [8001, 8002, 8003].map(|port| sink.sink(port, &[200]));
    let (all, of_web) = (world.dir().join("all.jsonl"), world.dir().join("web.jsonl"));
    let catalog = world.file("catalog.yaml", CATALOG);
    // The host's list, and a target that is typed.
    let targets = world.file(
        "targets",
        &format!(
            "owner=team-db,team-dba webhook:http://{0}:8001/\nwebhook:http://{0}:8003/\nfile:{1}\nowner=team-web  file:{2}\n",
            sink.v4(),
            all.display(),
            of_web.display()
        ),
    );
    let deploy = |service: Option<&str>| {
        let guard = world
            .guard()
            .policy(POLICY)
            .arg(&format!("--catalog={}", catalog.display()))
            .arg(&format!(
                "--notify=owner=team-web webhook:http://{}:8002/",
                sink.v4()
            ))
            .env("BLACKSTART_NOTIFY", &targets.display().to_string());
        let guard = match service {
            Some(service) => guard.arg(&format!("--service={service}")),
            None => guard,
        };
        let run = guard
            .run(&["curl", "-sS", "-m", "20", "http://github.com/"])
            .exits(6);
        assert!(
            !run.ended.stderr.contains("warning: cannot"),
            "{:?}",
            run.ended
        );
        assert_eq!(run.findings("denied_dependency").len(), 1);
    };
    deploy(Some("mysql"));
    let told: Value = serde_json::from_str(&db.take(1)[0]).unwrap();
    assert_eq!(told["findings"][0]["owner"], "team-db");
    deploy(Some("web"));
    let told: Value = serde_json::from_str(&web.take(1)[0]).unwrap();
    assert_eq!(told["findings"][0]["owner"], "team-web");
    deploy(None);
    let told: Value = serde_json::from_str(&rest.take(1)[0]).unwrap();
    assert_eq!(told["findings"][0]["owner"], Value::Null);
    // Whatever came to one of them came to no other, whoever came later.
    assert_eq!(
        [db.taken().len(), web.taken().len(), rest.taken().len()],
        [1, 1, 1]
    );
    let kinds = |path| -> Vec<String> {
        let text = fs::read_to_string(path).unwrap();
        let lines = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let short = lines.map(|line| match &line["finding"]["kind"] {
            Value::String(kind) => kind.clone(),
            _ => "run".to_owned(),
        });
        short
            .filter(|kind| kind == "run" || kind == "denied_dependency")
            .collect()
    };
    assert_eq!(kinds(&all), ["denied_dependency", "run"].repeat(3));
    assert_eq!(kinds(&of_web), ["run", "denied_dependency", "run", "run"]);
    // What is no route is found out before anything runs.
    world
        .guard()
        .arg("--notify=owner=team-web metrics:/m/b.prom")
        .run(&["true"])
        .exits(125);
}
