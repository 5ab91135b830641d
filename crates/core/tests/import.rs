//! Other programs' files become a catalog's; what is wrong with them has a place and takes nothing from the rest.

use blackstart_core::catalog::{self, Destination};
use blackstart_core::graph::{Evidence, Graph, Input, build};
use blackstart_core::import::{Format, Options, Reading, read};
use blackstart_core::name::Name;
use blackstart_core::tables::Protocol;
use proptest::prelude::*;

const JAEGER: &str = include_str!("samples/jaeger.json");
const OTLP: &str = include_str!("samples/otlp.json");
const KUBERNETES: &str = include_str!("samples/kubernetes.json");
const BACKSTAGE: &str = include_str!("samples/catalog-info.yaml");

fn imported(format: Format, text: &str) -> Reading {
    read(format, &[("file", text)], &Options::default())
}

/// The catalog that the imports make beside what a person wrote.
fn catalog(own: &str, imports: &[&Reading]) -> catalog::Reading {
    let texts: Vec<String> = imports
        .iter()
        .map(|reading| reading.import.text())
        .collect();
    let mut files = vec![("own.yaml", own)];
    files.extend(texts.iter().map(|text| ("import.yaml", text.as_str())));
    catalog::read(&files)
}

fn graph(catalog: &catalog::Catalog) -> Graph {
    build(&Input {
        catalog,
        runs: &[],
        imports: &[],
    })
}

/// `by needs what: evidence`, of all needs.
fn needs(graph: &Graph) -> Vec<String> {
    let name = |id| graph.node(id).name.as_str();
    let needs = graph.needs().iter();
    needs
        .map(|need| {
            let evidence: Vec<String> = need.evidence.iter().map(Evidence::to_string).collect();
            format!(
                "{} needs {}: {}",
                name(need.from),
                name(need.to),
                evidence.join("; ")
            )
        })
        .collect()
}

fn messages(reading: &Reading) -> Vec<String> {
    let diagnostics = reading.diagnostics.iter();
    diagnostics
        .map(|d| format!("{}:{}: {}", d.line, d.column, d.message))
        .collect()
}

#[test]
fn traces_become_needs_with_their_place() {
    for (format, text, places) in [
        (Format::Jaeger, JAEGER, ["4:5", "3:5", "5:5"]),
        (Format::Otlp, OTLP, ["", "", ""]),
    ] {
        let reading = imported(format, text);
        assert_eq!(messages(&reading), [""; 0]);
        let catalog = catalog("", &[&reading]);
        assert!(!catalog.partial, "{:#?}", catalog.diagnostics);
        let told = needs(&graph(&catalog.catalog));
        if format == Format::Jaeger {
            assert_eq!(
                told,
                [
                    format!(
                        "checkout needs cart: imported from jaeger, file:{}",
                        places[0]
                    ),
                    format!(
                        "checkout needs payments: imported from jaeger, file:{}",
                        places[1]
                    ),
                    format!(
                        "payments needs ledger-db: imported from jaeger, file:{}",
                        places[2]
                    ),
                ]
            );
        } else {
            assert_eq!(told.len(), 2, "{told:?}");
            assert!(told[1].starts_with("payments needs ledger: imported from otlp, file:"));
        }
    }
}

#[test]
fn the_collectors_file_has_a_document_a_line() {
    let value: serde_json::Value = serde_json::from_str(OTLP).unwrap();
    let text = format!("{value}\n{}\n", r#"{"resourceMetrics": []}"#);
    let reading = imported(Format::Otlp, &text);
    let told = messages(&reading);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].starts_with("2:1: no metric here is called"),
        "{told:?}"
    );
    assert!(!reading.partial);
    assert_eq!(reading.import.counts(), (3, 2));
}

#[test]
fn services_of_a_cluster_are_known_by_name_and_address() {
    let reading = imported(Format::Kubernetes, KUBERNETES);
    assert_eq!(messages(&reading), [""; 0]);
    let catalog = catalog("", &[&reading]);
    assert!(catalog.diagnostics.is_empty(), "{:#?}", catalog.diagnostics);
    let catalog = catalog.catalog;
    let owner = |name: Option<&str>, address: Option<&str>, port, protocol| {
        let name = name.map(|name| Name::parse(name).unwrap());
        let id = catalog.owner_of(&Destination::Net {
            name: name.as_ref(),
            address: address.map(|address| address.parse().unwrap()),
            port: Some(port),
            protocol: Some(protocol),
        })?;
        Some(catalog.service(id).name.as_str())
    };
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    let cart = Some("shop/cart");
    assert_eq!(
        owner(Some("cart.shop.svc.cluster.local"), None, 80, tcp),
        cart
    );
    assert_eq!(owner(None, Some("10.96.12.7"), 7946, udp), cart);
    assert_eq!(owner(None, Some("fd00:96::c07"), 80, tcp), cart);
    assert_eq!(owner(None, Some("10.96.12.7"), 7946, tcp), None);
    let pod = Some("ledger-db-0.ledger-db.pay.svc.cluster.local");
    assert_eq!(owner(pod, None, 5432, tcp), Some("pay/ledger-db"));
    assert_eq!(
        owner(Some("edge.shop.example"), None, 443, tcp),
        Some("shop/edge")
    );
    assert_eq!(
        owner(None, Some("198.51.100.7"), 443, tcp),
        Some("shop/edge")
    );
    let id = catalog.find("shop/cart").unwrap();
    let service = catalog.service(id);
    assert_eq!(
        (service.owner.as_deref(), service.tier),
        (Some("team-shop"), Some(2))
    );
}

#[test]
fn entities_become_services_and_apis_lead_to_who_provides_them() {
    let reading = imported(Format::Backstage, BACKSTAGE);
    let told = messages(&reading);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].ends_with("a Group is left out: it is nothing that can be down"));
    assert!(!reading.partial);
    let catalog = catalog("", &[&reading]);
    assert!(!catalog.partial, "{:#?}", catalog.diagnostics);
    let told: Vec<String> = needs(&graph(&catalog.catalog))
        .into_iter()
        .map(|need| need.split(':').take(3).collect::<Vec<_>>().join(":"))
        .collect();
    let starts = [
        "api:rates needs exchange: imported from backstage, file",
        "checkout needs api:rates: imported from backstage, file",
        "checkout needs cart: imported from backstage, file",
        "checkout needs resource:ledger-db: imported from backstage, file",
    ];
    assert_eq!(told.len(), starts.len(), "{told:?}");
    for (told, start) in told.iter().zip(starts) {
        assert!(
            start.starts_with(told.as_str()) || told.starts_with(start),
            "{told}"
        );
    }
    let service = catalog
        .catalog
        .service(catalog.catalog.find("checkout").unwrap());
    assert_eq!(
        (service.owner.as_deref(), service.tier),
        (Some("team-pay"), Some(1))
    );
    assert_eq!(service.provides.len(), 2);
}

#[test]
fn what_people_wrote_goes_before_and_evidence_adds_up() {
    let own = "apiVersion: blackstart.dev/v1\nkind: Service\nname: ledger-db\nowner: team-db\ntier: 1\nprovides: ['10.9.9.9:5432']\n---\napiVersion: blackstart.dev/v1\nkind: Service\nname: payments\nneeds: [{ service: ledger-db, strength: hard }]\n";
    let options = Options {
        names: [("ledger".to_owned(), "ledger-db".to_owned())].into(),
        cluster_domain: None,
    };
    let jaeger = imported(Format::Jaeger, JAEGER);
    let otlp = read(Format::Otlp, &[("file", OTLP)], &options);
    let catalog = catalog(own, &[&jaeger, &otlp]);
    assert!(catalog.diagnostics.is_empty(), "{:#?}", catalog.diagnostics);
    let graph = graph(&catalog.catalog);
    let need = needs(&graph)
        .into_iter()
        .find(|need| need.starts_with("payments needs ledger-db"))
        .unwrap();
    let of = |what: &str| need.contains(what);
    assert!(
        of("declared in own.yaml") && of("from jaeger") && of("from otlp"),
        "{need}"
    );
    let service = catalog
        .catalog
        .service(catalog.catalog.find("ledger-db").unwrap());
    assert_eq!(service.owner.as_deref(), Some("team-db"));

    // An endpoint that a person gave to another service stays there, with a word about it.
    let own = "apiVersion: blackstart.dev/v1\nkind: Service\nname: front\nprovides: ['edge.shop.example:443']\n";
    let cluster = imported(Format::Kubernetes, KUBERNETES);
    let catalog = self::catalog(own, &[&cluster]);
    assert!(!catalog.partial);
    let told: Vec<_> = catalog.diagnostics.iter().collect();
    assert_eq!(told.len(), 1, "{told:#?}");
    let help = told[0].help.as_deref().unwrap();
    assert!(help.contains("`--as shop/edge=front`"), "{help}");
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let cases = [
        (
            Format::Jaeger,
            "{\"data\": [{\"parent\": \"a\"}]}",
            "1:11: a dependency names",
        ),
        (
            Format::Jaeger,
            "{\"dat\": []}",
            "1:1: the file has no list of dependencies",
        ),
        (
            Format::Jaeger,
            "{\"data\": [{\"parent\": \"a\",",
            "not valid JSON: EOF while parsing",
        ),
        (Format::Jaeger, "", "1:1: the file is empty"),
        (
            Format::Otlp,
            "{\"resourceSpans\": []}",
            "1:1: the file has spans, and no metrics",
        ),
        (Format::Otlp, "[]", "1:1: the file has no `resourceMetrics`"),
        (
            Format::Kubernetes,
            "kind: Deployment",
            "1:1: a Deployment is left out",
        ),
        (
            Format::Kubernetes,
            "kind: Service\nspec: {}",
            "1:1: a Service has no `metadata.name`",
        ),
        (
            Format::Kubernetes,
            "{}",
            "1:1: an object without `kind` is left out",
        ),
        (
            Format::Backstage,
            "apiVersion: v1\nkind: Component",
            "is not one of Backstage's",
        ),
        (
            Format::Backstage,
            "apiVersion: backstage.io/v1alpha1\nkind: Componet",
            "no kind of entity",
        ),
        (
            Format::Backstage,
            "apiVersion: backstage.io/v1alpha1\nkind: Component\nmetadata: { name: a }\nspec: { dependsOn: [b] }",
            "4:21: this is no reference to an entity",
        ),
    ];
    for (format, text, wanted) in cases {
        let reading = imported(format, text);
        let told = messages(&reading);
        assert!(
            told.iter().any(|told| told.contains(wanted)),
            "{text}: {told:?}"
        );
    }
    // One bad file does not lose the good ones.
    let files = [("bad", "{"), ("good", JAEGER)];
    let reading = read(Format::Jaeger, &files, &Options::default());
    assert!(reading.partial);
    assert_eq!(reading.import.counts(), (4, 3));
    // A name that cannot be one becomes another.
    let odd = imported(
        Format::Jaeger,
        "[{\"parent\": \"a b\", \"child\": \"c,d\"}]",
    );
    assert_eq!(odd.diagnostics.len(), 2);
    assert!(!catalog("", &[&odd]).partial);
}

#[test]
fn json_is_read_as_json() {
    let service = |annotation: &str| {
        format!(
            "{{\n\t\"kind\": \"List\",\n\t\"items\": [\n\t\t{{\"kind\": \"Service\", \"metadata\": {{\"name\": \"büro\", \"annotations\": {{{annotation}}}}}}}\n\t]\n}}\n"
        )
    };
    // A character in two halves, an escape that YAML does not have, a long key, a number, tabs.
    for odd in [
        r#""x": "\ud83d\ude00 \/ \u00fc""#.to_owned(),
        format!("\"{}\": 1.5e3", "k".repeat(2_000)),
        r#""a8r.io/owner": "team-\ud83d\ude00""#.to_owned(),
    ] {
        let reading = imported(Format::Kubernetes, &service(&odd));
        assert_eq!(messages(&reading), [""; 0], "{odd}");
        assert_eq!(reading.import.counts(), (1, 0));
    }
    let owned = imported(
        Format::Kubernetes,
        &service(r#""a8r.io/owner": "\ud83d\ude00""#),
    );
    assert!(owned.import.text().contains("\"owner\": \"😀\""));
    // Places are those of the text as it stands.
    let wrong = service(r#""x": "\ud83d\ude00ü", "blackstart.dev/tier": "high""#);
    let reading = imported(Format::Kubernetes, &wrong);
    assert_eq!(
        messages(&reading),
        ["4:113: blackstart.dev/tier is a whole number from 1 on"]
    );
    let span = reading.diagnostics[0].span.clone();
    assert_eq!(&wrong[span], "\"high\"");
    // Cut off, it is no YAML that somebody got wrong.
    for (text, told) in [
        (
            &wrong[..wrong.find("\\ude00").unwrap()],
            "4:79: not valid JSON: EOF while parsing a string",
        ),
        ("{\"kind\": ]", "1:10: not valid JSON: expected value"),
        ("{", "1:1: not valid JSON: EOF while parsing an object"),
        (
            "[{\"a\": 1},",
            "1:10: not valid JSON: EOF while parsing a value",
        ),
        ("{kind: List, items: [}", "1:22: not valid YAML: "),
    ] {
        let told_of = messages(&imported(Format::Kubernetes, text));
        assert!(
            told_of.len() == 1 && told_of[0].starts_with(told),
            "{text}: {told_of:?}"
        );
    }
    // YAML with braces goes on being YAML, and so do several documents.
    let braces = "{kind: Service, metadata: {name: a}}\n---\n{\"kind\": \"Service\", \"metadata\": {\"name\": \"b\"}}\n";
    let reading = imported(Format::Kubernetes, braces);
    assert_eq!(
        (messages(&reading), reading.import.counts()),
        (vec![], (2, 0))
    );
    // What is nested without end takes up no stack.
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    for text in [
        deep.clone(),
        format!("{{\"kind\": \"Service\", \"x\": {deep}}}"),
    ] {
        let told = messages(&imported(Format::Kubernetes, &text));
        assert!(
            told.len() == 1 && told[0].contains("nested more deeply"),
            "{told:?}"
        );
    }
    let deep = format!(
        "{{\"kind\": \"List\", \"items\": [], \"x\": {}1{}}}",
        "[".repeat(100),
        "]".repeat(100)
    );
    assert_eq!(messages(&imported(Format::Kubernetes, &deep)), [""; 0]);
}

#[test]
fn an_odd_document_takes_nothing_from_those_behind_it() {
    let entity = |kind: &str, name: &str, rest: &str| {
        format!(
            "apiVersion: backstage.io/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\n{rest}---\n"
        )
    };
    let deep = (0..150)
        .map(|depth| format!("{}k:\n", " ".repeat(depth + 2)))
        .collect::<String>();
    for (odd, told) in [
        (
            "spec: {a: &x 1, b: *x}\n",
            "4:20: aliases (`*name`) are not supported in a file of services",
        ),
        (
            "spec: {a: !custom [1, {b: !c 2}]}\n",
            "4:11: tags (`!name`) are not supported in a file of services",
        ),
        (
            &*format!("spec:\n{deep}  z: 1\n"),
            "132:130: nested more deeply than any file of services is",
        ),
    ] {
        let text = entity("Component", "odd", odd)
            + &entity("Component", "good", "spec: {dependsOn: [resource:db]}\n");
        let reading = imported(Format::Backstage, &text);
        assert_eq!(messages(&reading), [told]);
        assert!(reading.partial);
        assert!(
            reading.diagnostics[0]
                .help
                .as_ref()
                .unwrap()
                .contains("those behind it are read")
        );
        assert_eq!(reading.import.counts(), (2, 1), "good, and what it needs");
        // What is nothing that can be down may hold what it likes.
        let text = entity("Template", "odd", odd) + &entity("Component", "good", "");
        let reading = imported(Format::Backstage, &text);
        assert_eq!(
            messages(&reading),
            ["1:1: a Template is left out: it is nothing that can be down"]
        );
        assert!(!reading.partial);
        assert_eq!(reading.import.counts(), (1, 0));
    }
}

#[test]
fn both_ends_of_a_dependency_may_tell_of_it() {
    let text = "apiVersion: backstage.io/v1alpha1\nkind: Resource\nmetadata: {name: db}\nspec:\n  dependencyOf:\n    - component:shop\n    - db-of-nothing\n    - user:somebody\n";
    let reading = imported(Format::Backstage, text);
    assert_eq!(
        messages(&reading),
        ["7:7: this is no reference to an entity"]
    );
    let catalog = catalog("", &[&reading]);
    assert_eq!(
        needs(&graph(&catalog.catalog)),
        ["shop needs resource:db: imported from backstage, file:6:7"]
    );
}

#[test]
fn a_tier_that_is_none_is_told_by_both() {
    let backstage = "apiVersion: backstage.io/v1alpha1\nkind: Component\nmetadata: {name: a, annotations: {blackstart.dev/tier: 'TIER'}}\n";
    let kubernetes =
        "kind: Service\nmetadata: {name: a, annotations: {blackstart.dev/tier: 'TIER'}}\n";
    for (format, text) in [
        (Format::Backstage, backstage),
        (Format::Kubernetes, kubernetes),
    ] {
        for tier in ["0", "high", "-1", "1.5"] {
            let reading = imported(format, &text.replace("TIER", tier));
            let told = messages(&reading);
            assert!(
                told.len() == 1
                    && told[0].ends_with("blackstart.dev/tier is a whole number from 1 on"),
                "{told:?}"
            );
        }
        let reading = imported(format, &text.replace("TIER", "2"));
        assert!(messages(&reading).is_empty() && reading.import.text().contains("\"tier\": 2"));
    }
}

#[test]
fn an_endpoint_that_is_none_is_told_where_it_stands() {
    let text = "apiVersion: backstage.io/v1alpha1\nkind: Component\nmetadata:\n  name: checkout\n  annotations:\n    blackstart.dev/provides: \"checkout.internal:443, 10,30.0.0/24\"\n";
    let reading = imported(Format::Backstage, text);
    assert!(reading.partial);
    let told = messages(&reading);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.iter().all(|it| it.starts_with("6:30: ")), "{told:?}");
    // What is left is a catalog.
    let read = catalog::read(&[("import.yaml", &reading.import.text())]);
    assert_eq!(read.diagnostics, []);
    assert_eq!(read.catalog.services()[0].provides.len(), 1);

    let text = "kind: Service\napiVersion: v1\nmetadata: { name: cart }\nspec: { clusterIP: 10.96.0.3, ports: [{ port: 0 }] }\n";
    let reading = imported(Format::Kubernetes, text);
    assert!(reading.partial);
    let read = catalog::read(&[("import.yaml", &reading.import.text())]);
    assert_eq!(read.diagnostics, []);
}

/// Files of the four formats with pieces taken out, doubled and put elsewhere, and texts that only look like one.
fn any_file() -> impl Strategy<Value = (Format, String)> {
    let format = prop_oneof![
        Just(Format::Backstage),
        Just(Format::Jaeger),
        Just(Format::Otlp),
        Just(Format::Kubernetes),
    ];
    let sample = prop_oneof![Just(BACKSTAGE), Just(JAEGER), Just(OTLP), Just(KUBERNETES)];
    let cut = (
        sample,
        any::<prop::sample::Index>(),
        0..60usize,
        any::<prop::sample::Index>(),
        ".{0,6}",
    )
        .prop_map(|(sample, from, length, to, with)| {
            let letters: Vec<char> = sample.chars().collect();
            let from = from.index(letters.len());
            let end = (from + length).min(letters.len());
            let to = to.index(letters.len());
            let mut text: Vec<char> = letters[..from]
                .iter()
                .chain(&letters[end..])
                .copied()
                .collect();
            let piece = letters[from..end].iter().copied().chain(with.chars());
            let to = to.min(text.len());
            text.splice(to..to, piece);
            text.into_iter().collect::<String>()
        });
    let word = "(\\{|\\}|\\[|\\]|,|:|\"|kind|Service|List|items|metadata|name|spec|ports|port|data|parent|child|resourceMetrics|apiVersion|backstage.io/v1|Component|dependsOn|dependencyOf|\\\\ud83d|\\\\u00e9|null|true|-1|1e400|---\n|&a|\\*a|!t|\n|  |- |é)";
    let made = prop::collection::vec(word, 0..60).prop_map(|words| words.concat());
    (format, prop_oneof![cut, made, ".{0,80}"])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn any_text_is_imported_or_diagnosed((format, text) in any_file()) {
        let reading = imported(format, &text);
        for diagnostic in &reading.diagnostics {
            prop_assert!(text.get(diagnostic.span.clone()).is_some(), "{:?} of {:?}", diagnostic.span, text);
            prop_assert!(diagnostic.line >= 1 && diagnostic.column >= 1);
        }
        // What was taken in is a file of a catalog, whatever it came from.
        let written = reading.import.text();
        prop_assert!(blackstart_core::import::Import::wrote(&written));
        let read = catalog::read(&[("import.yaml", &written)]);
        let (services, _) = reading.import.counts();
        let named = read.catalog.services().len();
        prop_assert!(named <= services);
    }
}
