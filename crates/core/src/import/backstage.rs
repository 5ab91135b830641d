//! Entities of Backstage's software catalog: components and resources are services; what they depend on, and whose
//! APIs they consume, is what they need.

use super::{File, TIER, below, get, items, text};
use crate::document::Node;

/// Under which names and addresses it is reached, with commas between them: Backstage has no word for it.
const PROVIDES: &str = "blackstart.dev/provides";
const DEFAULT: &str = "default";

/// Kinds that say nothing of what can be down.
const SILENT: &[&str] = &[
    "API", "Domain", "Group", "Location", "System", "Template", "User",
];

/// Is a document an entity that says nothing of what can be down?
pub(super) fn is_silent(root: &Node) -> bool {
    text(get(root, "kind")).is_some_and(|kind| SILENT.contains(&kind))
}

impl File<'_, '_> {
    pub(super) fn backstage(&mut self, root: &Node) {
        // The API's answer is a list of what the files have one by one.
        let list = items(Some(root));
        if list.is_empty() {
            self.entity(root);
        }
        for entity in list {
            self.entity(entity);
        }
    }

    fn entity(&mut self, node: &Node) {
        let at = node.span.start..node.span.start;
        let version = text(get(node, "apiVersion")).unwrap_or_default();
        let kind = text(get(node, "kind")).unwrap_or_default();
        if !version.starts_with("backstage.io/") {
            let message = format!("apiVersion {version:?} is not one of Backstage's");
            let help = "an entity begins with `apiVersion: backstage.io/v1alpha1`".to_owned();
            self.reader.error(&at, message, Some(help));
            return;
        }
        if !matches!(kind, "Component" | "Resource") {
            let message = match SILENT.contains(&kind) {
                true => format!(
                    "{} {kind} is left out: it is nothing that can be down",
                    article(kind)
                ),
                false => {
                    format!("{kind:?} is no kind of entity that is known here, it is left out")
                }
            };
            let help = "Components and Resources are taken in".to_owned();
            self.reader.warning(&at, message, Some(help));
            return;
        }
        let Some(name) = text(below(node, &["metadata", "name"])) else {
            self.reader
                .error(&at, "an entity has no `metadata.name`", None);
            return;
        };
        let namespace = text(below(node, &["metadata", "namespace"])).unwrap_or(DEFAULT);
        let own = Reference {
            kind: kind.to_lowercase(),
            namespace: namespace.to_lowercase(),
            name: name.to_owned(),
        };
        let by = self.met(&own.service(), &node.span);
        let annotation = |key| below(node, &["metadata", "annotations", key]);
        let mut provides = Vec::new();
        if let Some(annotation) = annotation(PROVIDES) {
            let endpoints = text(Some(annotation)).unwrap_or_default().split(',');
            for endpoint in endpoints.map(str::trim).filter(|it| !it.is_empty()) {
                provides.extend(self.provided(endpoint.to_owned(), None, &annotation.span));
            }
        }
        let owner = text(below(node, &["spec", "owner"])).map(|owner| {
            // `group:default/team-db`, or as it is mostly written, `team-db`.
            let after = owner.rsplit_once(':').map_or(owner, |(_, rest)| rest);
            after.strip_prefix("default/").unwrap_or(after).to_owned()
        });
        let tier = annotation(TIER).and_then(|node| self.tier(node));
        let service = self.found.service(&by);
        service.provides.extend(provides);
        service.owner = service.owner.take().or(owner);
        service.tier = service.tier.or(tier);

        for needed in items(below(node, &["spec", "dependsOn"])) {
            let reference = text(Some(needed)).and_then(|text| Reference::parse(text, None));
            match reference {
                Some(reference) if matches!(&*reference.kind, "component" | "resource") => {
                    let service = self.met(&reference.service(), &needed.span);
                    self.need(by.clone(), service, &needed.span);
                }
                Some(_) => {}
                None => self.no_reference(needed, "component:NAME"),
            }
        }
        for needing in items(below(node, &["spec", "dependencyOf"])) {
            let reference = text(Some(needing)).and_then(|text| Reference::parse(text, None));
            match reference {
                Some(reference) if matches!(&*reference.kind, "component" | "resource") => {
                    let service = self.met(&reference.service(), &needing.span);
                    self.need(service, by.clone(), &needing.span);
                }
                Some(_) => {}
                None => self.no_reference(needing, "component:NAME"),
            }
        }
        // An API belongs to whoever provides it, and that may stand in another file: it goes by its own name, which
        // provider and consumer share.
        for api in items(below(node, &["spec", "providesApis"])) {
            if let Some(name) = self.api(api) {
                let api_service = self.met(&name, &api.span);
                self.need(api_service, by.clone(), &api.span);
            }
        }
        for api in items(below(node, &["spec", "consumesApis"])) {
            if let Some(name) = self.api(api) {
                let api_service = self.met(&name, &api.span);
                self.need(by.clone(), api_service, &api.span);
            }
        }
    }

    fn api(&mut self, node: &Node) -> Option<String> {
        let reference = text(Some(node)).and_then(|text| Reference::parse(text, Some("api")));
        if reference.is_none() {
            self.no_reference(node, "NAME");
        }
        reference.map(|reference| reference.service())
    }

    fn no_reference(&mut self, node: &Node, form: &str) {
        let message = "this is no reference to an entity";
        let help = Some(format!("write `{form}`, or `kind:namespace/name`"));
        self.reader.error(&node.span, message, help);
    }
}

fn article(word: &str) -> &'static str {
    if word.starts_with(['A', 'E', 'I', 'O']) {
        "an"
    } else {
        "a"
    }
}

/// A reference to an entity: `[kind:][namespace/]name`.
struct Reference {
    kind: String,
    namespace: String,
    name: String,
}

impl Reference {
    /// None if it does not say its kind and none is expected.
    fn parse(text: &str, kind: Option<&str>) -> Option<Self> {
        let (kind, rest) = match text.split_once(':') {
            Some((kind, rest)) => (kind.to_lowercase(), rest),
            None => (kind?.to_owned(), text),
        };
        let (namespace, name) = rest.split_once('/').unwrap_or((DEFAULT, rest));
        let named = !name.is_empty() && !namespace.is_empty() && !name.contains('/');
        named.then(|| Self {
            kind,
            namespace: namespace.to_lowercase(),
            name: name.to_owned(),
        })
    }

    /// What a catalog calls it: a component by its name, what is of another kind with that before it, since
    /// entities of different kinds may share a name.
    fn service(&self) -> String {
        let name = match &*self.namespace {
            DEFAULT => self.name.clone(),
            namespace => format!("{namespace}/{}", self.name),
        };
        match &*self.kind {
            "component" => name,
            kind => format!("{kind}:{name}"),
        }
    }
}
