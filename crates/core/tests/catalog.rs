//! What a catalog says, and what its authors are told.

use blackstart_core::catalog::{
    At, Catalog, Derivation, Destination, Phase, Reading, Strength, protect, provided, read,
};
use blackstart_core::name::Name;
use blackstart_core::policy::Target;
use blackstart_core::tables::Protocol;
use proptest::prelude::*;

const HEAD: &str = "apiVersion: blackstart.dev/v1\nkind: Service\n";

/// Services, each of which is a document's keys after its head.
fn text(services: &[&str]) -> String {
    let documents: Vec<_> = services
        .iter()
        .map(|keys| format!("{HEAD}{keys}"))
        .collect();
    documents.join("\n---\n")
}

fn accepted(services: &[&str]) -> Catalog {
    let reading = read(&[("c.yaml", &text(services))]);
    assert!(
        reading.diagnostics.is_empty() && !reading.partial,
        "{}",
        told(&reading, &[])
    );
    reading.catalog
}

/// The catalog in short, then every diagnostic with the text that it points at.
fn told(reading: &Reading, files: &[(&str, &str)]) -> String {
    let mut out = format!("partial: {}\n", reading.partial);
    for service in reading.catalog.services() {
        let provides: Vec<_> = service.provides.iter().map(|e| e.text.as_str()).collect();
        let needs: Vec<_> = service
            .needs
            .iter()
            .map(|n| {
                let name = &reading.catalog.service(n.service).name;
                format!("{name} to {}", n.phase)
            })
            .collect();
        out += &format!("{}: provides {provides:?}, needs {needs:?}\n", service.name);
    }
    for d in &reading.diagnostics {
        out += &format!("{d}\n");
        if let Some((_, text)) = files.iter().find(|(file, _)| *file == d.file) {
            out += &format!("    at {:?}\n", &text[d.span.clone()]);
        }
    }
    out
}

fn read_and_tell(files: &[(&str, &str)]) -> String {
    told(&read(files), files)
}

const GITHUB: &str = "name: github
owner: team-git
tier: 1
provides:
  - .github.com:443
  - github.com:22
  - {endpoint: \"[fd00:7::]:9418\", protocol: tcp}
needs: [mysql]
";
const MYSQL: &str = "name: mysql
provides: [10.20.0.0/16:3306, unix:/run/mysqld/mysqld.sock, \"unix:@mysql\"]
needs:
  - service: vault
    for: deploy
    strength: hard
    reason: the root password
";
const MIGRATIONS: &str = "name: migrations\nprovides: [migrations.internal]\nneeds: [github]\n";
const VAULT: &str = "name: vault\nprovides: [vault.internal]\n";

#[test]
fn a_whole_catalog() {
    let catalog = accepted(&[GITHUB, MYSQL, MIGRATIONS, VAULT]);
    let names: Vec<_> = catalog.services().iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["github", "migrations", "mysql", "vault"]);
    let github = catalog.service(catalog.find("github").unwrap());
    assert_eq!(
        (github.owner.as_deref(), github.tier),
        (Some("team-git"), Some(1))
    );
    assert!(matches!(
        &github.provides[2].at,
        At::Net { target: Target::Net(_), ports: Some(ports), protocol: Some(Protocol::Tcp) } if ports.first == 9418
    ));
    assert_eq!(github.provides[1].place.to_string(), "c.yaml:8:5");
    assert_eq!(github.needs[0].place.to_string(), "c.yaml:10:9");
    assert_eq!(
        (github.needs[0].phase, github.needs[0].claim),
        (Phase::Run, None)
    );
    let mysql = catalog.service(catalog.find("mysql").unwrap());
    let need = &mysql.needs[0];
    assert_eq!(catalog.service(need.service).name, "vault");
    assert_eq!(
        (need.phase, need.claim),
        (Phase::Deploy, Some(Strength::Hard))
    );
    assert_eq!(need.reason.as_deref(), Some("the root password"));
    assert_eq!(mysql.provides[2].at, At::Unix("@mysql".to_owned()));
}

#[test]
fn everything_that_is_wrong_in_one_document() {
    let bad = text(&[
        "nmae: x\nprovides: a.com\n",
        "name: \"a, b\"\n",
        "name: y
owner: true
tier: 0
provides:
  - service:github
  - unix:run/x
  - https://a.com/x
  - \"*\"
  - .com
  - a.com:0
  - {protocol: udp}
  - {endpoint: unix:/run/x, protocol: tcp}
  - {endpoint: a.com, protocol: icmp}
  - {endpoint: a.com, port: 1}
  - a.com
  - [b.com]
needs:
  - githbu
  - {for: run}
  - {service: github, for: build}
  - {service: github, strength: firm}
  - github
  - true
  - nothing-like-it
name: z
",
        GITHUB,
        MYSQL,
        VAULT,
        "name: vault\n",
    ]);
    insta::assert_snapshot!(read_and_tell(&[("bad.yaml", &bad)]));
}

#[test]
fn one_bad_file_does_not_lose_the_good_ones() {
    let good = text(&[GITHUB, VAULT]);
    let cut = format!("{}---\n{HEAD}name: [lost\n", text(&[MYSQL]));
    let policy = "apiVersion: blackstart.dev/v1\nkind: Policy\nrules: []\n";
    let later = "apiVersion: blackstart.dev/v2\nkind: Service\nname: x\n";
    let huge = "x".repeat((16 << 20) + 1);
    let headless = "name: x\n---\n- a\n---\nword\n---\n";
    let waiting = text(&["name: w\nneeds: [lost]\n"]);
    insta::assert_snapshot!(read_and_tell(&[
        ("good.yaml", &good),
        ("cut.yaml", &cut),
        ("policy.yaml", policy),
        ("later.yaml", later),
        ("headless.yaml", headless),
        ("waiting.yaml", &waiting),
    ]));
    let reading = read(&[("huge.yaml", &huge), ("good.yaml", &good)]);
    assert!(reading.partial && reading.catalog.services().len() == 2);
    // The order of the files is that of the diagnostics.
    assert_eq!(reading.diagnostics[0].file, "huge.yaml");
    assert!(read(&[]).catalog.services().is_empty() && !read(&[]).partial);
    assert!(!read(&[("empty.yaml", "# nothing yet\n")]).partial);
}

#[test]
fn what_is_provided_twice() {
    let a = text(&[
        "name: b\nprovides: [x.com:443, 10.0.0.0/8, unix:/run/s, 10.1.0.0/16:53, \"fd00::/8\", y.com, y.com]\n",
    ]);
    let b = text(&["name: a
provides:
  - X.com.:443
  - x.com:80
  - x.com
  - 10.0.0.0/8:22
  - unix:/run/s
  - {endpoint: 10.1.2.3:53, protocol: udp}
  - fd00:1::/32
  - 10.0.0.0/7
"]);
    insta::assert_snapshot!(read_and_tell(&[("one.yaml", &a), ("two.yaml", &b)]));
}

fn owner<'c>(catalog: &'c Catalog, name: &str, address: &str, port: u16) -> &'c str {
    let name = (!name.is_empty()).then(|| Name::parse(name).unwrap());
    let destination = Destination::Net {
        name: name.as_ref(),
        address: address.parse().ok(),
        port: (port != 0).then_some(port),
        protocol: (port != 0).then_some(Protocol::Tcp),
    };
    catalog
        .owner_of(&destination)
        .map_or("", |id| &catalog.service(id).name)
}

#[test]
fn the_closest_description_owns() {
    let reading = read(&[(
        "c.yaml",
        &text(&[
            "name: github\nprovides: [.github.com, 10.0.0.0/8]\n",
            "name: api\nprovides: [\"api.github.com:443\", \"*.api.github.com\", 10.20.0.0/16:3306]\n",
            "name: pages\nprovides: [\"a.*.github.com\", \"*:25\", {endpoint: 10.20.0.0/16:53, protocol: udp}]\n",
            "name: ssh\nprovides: [\"github.com:22\", \"github.com:1-1024\", \"10.20.1.1:22\", unix:/run/s]\n",
        ]),
    )]);
    assert!(!reading.partial);
    let catalog = reading.catalog;
    for (name, address, port, wanted) in [
        ("github.com", "", 443, "ssh"),
        ("github.com", "", 8080, "github"),
        ("github.com", "", 22, "ssh"),
        // A lookup is for any port.
        ("github.com", "", 0, "ssh"),
        ("GITHUB.com", "10.20.1.1", 8080, "github"),
        ("api.github.com", "", 443, "api"),
        ("api.github.com", "", 80, "github"),
        ("x.y.api.github.com", "", 1, "api"),
        ("a.b.github.com", "", 1, "pages"),
        ("x.a.b.github.com", "", 1, "github"),
        ("evilgithub.com", "", 1, ""),
        ("evilgithub.com", "10.20.9.9", 3306, "api"),
        ("", "10.20.9.9", 3306, "api"),
        ("", "10.20.9.9", 3307, "github"),
        ("", "::ffff:10.20.9.9", 3306, "api"),
        // Udp only.
        ("", "10.20.9.9", 53, "github"),
        ("", "10.20.1.1", 22, "ssh"),
        ("", "10.20.1.1", 23, "github"),
        ("", "192.0.2.1", 25, "pages"),
        ("", "2001:db8::1", 25, "pages"),
        ("", "192.0.2.1", 26, ""),
        ("com", "", 0, ""),
    ] {
        assert_eq!(
            owner(&catalog, name, address, port),
            wanted,
            "{name} {address} {port}"
        );
    }
    let socket = |path| {
        catalog
            .owner_of(&Destination::Unix(path))
            .map(|id| &catalog.service(id).name[..])
    };
    assert_eq!((socket("/run/s"), socket("/run/t")), (Some("ssh"), None));
}

fn lines(derivation: &Derivation) -> Vec<String> {
    let rules = derivation.rules.iter().map(|rule| {
        let target = match &rule.target {
            Target::Name(pattern) => pattern.to_string(),
            Target::Net(net) => net.to_string(),
            other => format!("{other:?}"),
        };
        let ports = rule
            .ports
            .map_or(String::new(), |p| format!(":{}-{}", p.first, p.last));
        let protocol = rule.protocol.map_or(String::new(), |p| format!(" {p:?}"));
        format!(
            "{target}{ports}{protocol} of {} by {}",
            rule.service,
            rule.path.join(" → ")
        )
    });
    let sockets = derivation
        .sockets
        .iter()
        .map(|s| format!("{} of {} by {}", s.socket, s.service, s.path.join(" → ")));
    let silent = derivation.silent.iter().map(|s| format!("nothing of {s}"));
    rules.chain(sockets).chain(silent).collect()
}

#[test]
fn what_protect_stands_for() {
    let catalog = accepted(&[
        GITHUB,
        MYSQL,
        MIGRATIONS,
        VAULT,
        // Needs github to be deployed, and serves without it.
        "name: web\nprovides: [web.internal]\nneeds: [{service: github, for: deploy}]\n",
        "name: batch\nneeds: [migrations, web]\n",
        // Two ways of the same length: the first by name.
        "name: zebra\nprovides: [zebra.internal]\nneeds: [migrations, batch, {service: alpha, strength: soft}]\n",
        "name: alpha\nprovides: [alpha.internal]\nneeds: [github]\n",
    ]);
    insta::assert_snapshot!(
        lines(&protect(&catalog, &["github"]).unwrap()).join("\n"), @"
    .github.com:443-443 of github by github
    github.com:22-22 of github by github
    fd00:7::/128:9418-9418 Tcp of github by github
    alpha.internal of alpha by alpha → github
    migrations.internal of migrations by migrations → github
    zebra.internal of zebra by zebra → alpha → github
    nothing of batch
    ");
    // The order in which they are named, and twice, makes no difference.
    insta::assert_snapshot!(
        lines(&protect(&catalog, &["vault", "mysql", "vault"]).unwrap()).join("\n"), @"
    10.20.0.0/16:3306-3306 of mysql by mysql
    vault.internal of vault by vault
    .github.com:443-443 of github by github → mysql
    github.com:22-22 of github by github → mysql
    fd00:7::/128:9418-9418 Tcp of github by github → mysql
    alpha.internal of alpha by alpha → github → mysql
    migrations.internal of migrations by migrations → github → mysql
    zebra.internal of zebra by zebra → alpha → github → mysql
    /run/mysqld/mysqld.sock of mysql by mysql
    @mysql of mysql by mysql
    nothing of batch
    ");
    assert_eq!(
        protect(&catalog, &["mysql", "vault"]),
        protect(&catalog, &["vault", "mysql", "vault"])
    );
    insta::assert_snapshot!(lines(&provided(&catalog, "mysql").unwrap()).join("\n"), @"
    10.20.0.0/16:3306-3306 of mysql by mysql
    /run/mysqld/mysqld.sock of mysql by mysql
    @mysql of mysql by mysql
    ");
    assert_eq!(protect::<&str>(&catalog, &[]), Ok(Derivation::default()));
}

#[test]
fn a_circle_of_needs_ends() {
    let catalog = accepted(&[
        "name: a\nprovides: [a.x]\nneeds: [b]\n",
        "name: b\nprovides: [b.x]\nneeds: [c, b]\n",
        "name: c\nprovides: [c.x]\nneeds: [a]\n",
    ]);
    insta::assert_snapshot!(lines(&protect(&catalog, &["a"]).unwrap()).join("\n"), @"
    a.x of a by a
    c.x of c by c → a
    b.x of b by b → c → a
    ");
}

#[test]
fn an_unknown_service_is_told_with_the_nearest() {
    let catalog = accepted(&[GITHUB, MYSQL, VAULT]);
    let unknown = protect(&catalog, &["githbu", "mysql", "postgres"]).unwrap_err();
    let told: Vec<_> = unknown
        .iter()
        .map(|u| (u.to_string(), u.nearest.as_deref()))
        .collect();
    assert_eq!(
        told,
        [
            (
                "the catalog has no service \"githbu\"".to_owned(),
                Some("github")
            ),
            ("the catalog has no service \"postgres\"".to_owned(), None),
        ]
    );
    assert!(provided(&catalog, "vualt").is_err_and(|u| u.nearest.as_deref() == Some("vault")));
}

#[test]
fn a_million_lines_are_read() {
    let services = 100_000;
    let mut files = Vec::new();
    for part in 0..10 {
        let mut file = String::new();
        for n in (part * services / 10)..((part + 1) * services / 10) {
            file += &format!(
                "---\n{HEAD}name: s{n}\nprovides:\n  - .s{n}.example\n  - 10.{}.{}.{}:443\nneeds:\n  - s{}\n  - s{}\n",
                n >> 16,
                (n >> 8) & 0xff,
                n & 0xff,
                (n + 1) % services,
                (n * 7 + 3) % services,
            );
        }
        files.push((format!("{part}.yaml"), file));
    }
    let files: Vec<_> = files
        .iter()
        .map(|(f, t)| (f.as_str(), t.as_str()))
        .collect();
    assert!(files.iter().map(|(_, t)| t.lines().count()).sum::<usize>() >= 1_000_000);
    let reading = read(&files);
    assert!(!reading.partial, "{:?}", reading.diagnostics.first());
    assert_eq!(reading.catalog.services().len(), services);
    assert_eq!(
        owner(&reading.catalog, "x.s77777.example", "", 443),
        "s77777"
    );
}

/// The parts of small worlds in which descriptions meet often.

#[test]
fn one_address_with_a_service_at_each_port() {
    // Twice as many as there are ports. One by one with each other they would be billions of pairs.
    let text: String = (1..=65_535u32)
        .flat_map(|port| [(port, "tcp"), (port, "udp")])
        .map(|(port, protocol)| {
            format!("---\n{HEAD}name: s{port}-{protocol}\nprovides: [{{endpoint: \"10.0.0.1:{port}\", protocol: {protocol}}}]\n")
        })
        .collect();
    let began = std::time::Instant::now();
    let reading = read(&[("c.yaml", &text)]);
    assert!(reading.diagnostics.is_empty(), "{:#?}", reading.diagnostics);
    assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
}

fn pattern() -> impl Strategy<Value = String> {
    let label = prop_oneof![Just("a"), Just("b"), Just("*")];
    (
        prop_oneof![Just(""), Just("."), Just("*.")],
        prop::collection::vec(label, 0..3),
    )
        .prop_map(|(reach, labels)| {
            let labels: String = labels.iter().map(|l| format!("{l}.")).collect();
            // A `*` at the start of an exact pattern would be its reach.
            format!("{reach}{labels}t").replacen("*.*.", "*.a.", 1)
        })
}

fn endpoint() -> impl Strategy<Value = String> {
    let net = prop_oneof![
        Just("10.0.0.0/8"),
        Just("10.0.0.0/15"),
        Just("10.1.0.0/16"),
        Just("10.1.2.3"),
        Just("10.1.2.2/31"),
        Just("10.0.0.7"),
    ];
    let ports = prop_oneof![
        Just(""),
        Just(":1"),
        Just(":1-2"),
        Just(":2-9"),
        Just(":1-9")
    ];
    let protocol = prop_oneof![Just(""), Just(", protocol: tcp"), Just(", protocol: udp")];
    (
        prop_oneof![pattern(), net.prop_map(str::to_owned)],
        ports,
        protocol,
    )
        .prop_map(|(at, ports, protocol)| format!("{{endpoint: \"{at}{ports}\"{protocol}}}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn owners_are_those_that_a_look_at_every_endpoint_gives(
        services in prop::collection::vec(prop::collection::vec(endpoint(), 0..5), 1..5),
        attempts in prop::collection::vec((
            prop::option::of(prop_oneof![Just("t"), Just("a.t"), Just("b.t"), Just("a.b.t"), Just("b.a.t"), Just("a.a.b.t"), Just("c.a.t"), Just("u")]),
            prop::option::of(prop_oneof![Just("10.1.2.3"), Just("10.1.9.9"), Just("10.0.0.7"), Just("10.9.9.9"), Just("192.0.2.1")]),
            prop::option::of(1..4u16),
            prop::option::of(prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)]),
        ), 1..30),
    ) {
        let documents: Vec<_> = services.iter().enumerate().map(|(n, provides)| {
            let list: String = provides.iter().map(|e| format!("\n  - {e}")).collect();
            format!("name: s{n}\nprovides:{list}\n")
        }).collect();
        let documents: Vec<_> = documents.iter().map(String::as_str).collect();
        let reading = read(&[("c.yaml", &text(&documents))]);
        for (name, address, port, protocol) in attempts {
            let name = name.map(|n| Name::parse(n).unwrap());
            let address: Option<std::net::IpAddr> = address.map(|a| a.parse().unwrap());
            let destination = Destination::Net { name: name.as_ref(), address, port, protocol };
            let mut best: Option<(_, String)> = None;
            for service in reading.catalog.services() {
                for endpoint in &service.provides {
                    let At::Net { target, ports, protocol: its } = &endpoint.at else { continue };
                    // A name goes before an address, a longer one before a shorter.
                    let place = match target {
                        Target::Name(pattern) if name.as_ref().is_some_and(|n| pattern.matches(n)) => (1, Some(pattern.specificity()), 0),
                        Target::Net(net) if address.is_some_and(|a| net.contains(&a)) => (0, None, net.prefix_len()),
                        _ => continue,
                    };
                    let (first, last) = ports.map_or((0, u16::MAX), |p| (p.first, p.last));
                    let right = port.is_none_or(|p| first <= p && p <= last)
                        && its.is_none_or(|its| protocol.is_none_or(|p| p == its));
                    if !right { continue }
                    let width = ports.map_or(-70_000, |_| -i32::from(last - first));
                    let rank = (place, width, its.is_some());
                    // Of equals the first by name stays.
                    if best.as_ref().is_none_or(|(known, _)| rank > *known) {
                        best = Some((rank, service.name.clone()));
                    }
                }
            }
            let found = reading.catalog.owner_of(&destination).map(|id| reading.catalog.service(id).name.clone());
            // What two services provide alike belongs to the one that was read first, which is the same here.
            prop_assert_eq!(found, best.map(|(_, name)| name), "{:?} in {}", destination, text(&documents));
        }
    }

    #[test]
    fn overlaps_are_those_that_a_comparison_of_all_finds(
        all in prop::collection::vec((0..4u8, 0..4u16, 0..4u16, prop_oneof![Just(""), Just("tcp"), Just("udp")]), 0..14),
    ) {
        let prefixes = ["10.0.0.0/8", "10.0.0.0/16", "10.0.0.1/32", "10.9.0.0/16"];
        let end = |(prefix, first, more, protocol): &(u8, u16, u16, &str)| {
            let protocol = match *protocol {
                "" => String::new(),
                word => format!(", protocol: {word}"),
            };
            let ports = match (*first, *more) {
                (0, _) => String::new(),
                (first, 0) => format!(":{first}"),
                (first, more) => format!(":{first}-{}", first + more),
            };
            format!("{{endpoint: \"{}{ports}\"{protocol}}}", prefixes[usize::from(*prefix)])
        };
        let services: Vec<String> = all.iter().enumerate().map(|(n, it)| format!("name: s{n:02}\nprovides: [{}]", end(it))).collect();
        let services: Vec<&str> = services.iter().map(String::as_str).collect();
        let text = text(&services);
        let reading = read(&[("c.yaml", &text)]);
        let net = |prefix: u8| prefixes[usize::from(prefix)].parse::<ipnet::IpNet>().unwrap();
        let ports = |it: &(u8, u16, u16, &str)| match it.1 {
            0 => (0, u16::MAX),
            first => (first, first + it.2),
        };
        // As it is: without ports it is the same whatever else was drawn.
        let key = |it: &(u8, u16, u16, &'static str)| (it.0, ports(it), it.3);
        let told: Vec<usize> = reading.diagnostics.iter().filter(|d| d.message.contains("overlaps with")).map(|d| (d.line - 1) / 5).collect();
        let wanted: Vec<usize> = (0..all.len()).filter(|&n| {
            let it = &all[n];
            let is_first = |m: usize| !all[..m].iter().any(|before| key(before) == key(&all[m]));
            (0..all.len()).any(|m| {
                let other = &all[m];
                let (a, b) = (ports(it), ports(other));
                m != n && key(other) != key(it) && is_first(m)
                    && net(other.0).contains(&net(it.0))
                    && (other.0 != it.0 || m < n)
                    && a.0 <= b.1 && b.0 <= a.1
                    && (it.3.is_empty() || other.3.is_empty() || it.3 == other.3)
            })
        }).collect();
        prop_assert_eq!(told, wanted, "{}", text);
    }

    #[test]
    fn any_text_is_a_catalog_or_a_diagnosis(texts in prop::collection::vec(prop_oneof![
        ".*",
        "(apiVersion|kind|name|provides|needs|tier|---|[&*!|>?%@`\"'#-]|[:{}\\[\\],~]|\\n| |\\t|a|é|\\.|\\*)*",
        "(- |  |\\n|service: |for: run|a\\.b|\\*|\\.|:|/|\\[|\\]|unix:|[0-9a-f]|-|\"|---\n|name: a\n){0,40}"
            .prop_map(|t| format!("{HEAD}name: a\nneeds: [b]\nprovides:\n  - a.b\n{t}")),
        "[\\[\\]:*./0-9a-z%@-]{0,24}".prop_map(|t| format!("{HEAD}name: b\nprovides:\n  - \"{t}\"\n")),
    ], 0..4)) {
        let names: Vec<_> = (0..texts.len()).map(|n| format!("{n}.yaml")).collect();
        let files: Vec<_> = names.iter().map(String::as_str).zip(texts.iter().map(String::as_str)).collect();
        let reading = read(&files);
        for d in &reading.diagnostics {
            let (_, text) = files.iter().find(|(file, _)| *file == d.file).unwrap();
            prop_assert!(text.get(d.span.clone()).is_some(), "{:?} of {:?}", d.span, text);
        }
        let names: Vec<_> = reading.catalog.services().iter().map(|s| s.name.clone()).collect();
        prop_assert!(names.is_sorted());
        let derived = protect(&reading.catalog, &names).unwrap();
        // Everything is protected, so nothing is derived by others.
        prop_assert!(derived.rules.iter().all(|rule| rule.path.len() == 1));
    }
}
