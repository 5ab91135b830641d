//! The JSON Schema of a file of a catalog, for editors.
//!
//! As for policies, the types exist for the schema only, and a test holds it and the reader together. Documents
//! that `graph import` writes have a schema of their own in it: an editor meets them, too.
#![expect(dead_code, reason = "the types are only described, never made")]

use schemars::JsonSchema;
use serde_json::Value;

use crate::policy::API_VERSION;

/// A document of a catalog.
#[derive(JsonSchema)]
#[schemars(untagged, rename = "Catalog")]
enum Document {
    Service(Service),
    Import(Import),
}

/// A service: something that can be down.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Service {
    /// The language's version.
    #[schemars(rename = "apiVersion", extend("const" = API_VERSION))]
    api_version: String,
    /// What this document is.
    #[schemars(extend("const" = "Service"))]
    kind: String,
    /// What the service is called. No blanks and no commas.
    #[schemars(regex(pattern = r"^[^\s,]+$"))]
    name: String,
    /// Whom to ask.
    owner: Option<String>,
    /// How critical it is: 1 is the most.
    #[schemars(range(min = 1))]
    tier: Option<u32>,
    /// By what it is reached.
    provides: Option<Vec<Endpoint>>,
    /// What it needs: a name alone is a need to run.
    needs: Option<Vec<Need>>,
}

/// A name (`github.com`, `*.github.com`, `.github.com`), an address or a CIDR, each optionally with `:port` or
/// `:first-last`, or `unix:PATH`.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum Endpoint {
    Text(String),
    Of(EndpointOf),
}

/// The same with a protocol.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct EndpointOf {
    /// What it is reached by.
    endpoint: String,
    /// With which protocol; with both, if nothing is said.
    protocol: Option<Protocol>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
enum Protocol {
    Tcp,
    Udp,
}

/// A service that is needed.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum Need {
    Name(String),
    Of(NeedOf),
}

/// The same with what is known of it.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct NeedOf {
    /// Which.
    service: String,
    /// For what: to run, if nothing is said, or to be deployed.
    r#for: Option<Phase>,
    /// What its want does, by its author's word: runs show how it is.
    strength: Option<Strength>,
    /// Why it is needed.
    reason: Option<String>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
enum Phase {
    Run,
    Deploy,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
enum Strength {
    /// It fails without.
    Hard,
    /// It manages without.
    Soft,
}

/// What `blackstart graph import` wrote.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Import {
    /// The language's version.
    #[schemars(rename = "apiVersion", extend("const" = API_VERSION))]
    api_version: String,
    /// What this document is.
    #[schemars(extend("const" = "Import"))]
    kind: String,
    /// From what kind of thing.
    from: Option<String>,
    /// The services that were found.
    services: Option<Vec<Imported>>,
    /// The needs that were found.
    needs: Option<Vec<ImportedNeed>>,
}

/// A service that was found.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Imported {
    /// What the service is called.
    #[schemars(regex(pattern = r"^[^\s,]+$"))]
    name: String,
    /// Whom to ask.
    owner: Option<String>,
    /// How critical it is.
    #[schemars(range(min = 1))]
    tier: Option<u32>,
    /// By what it is reached.
    provides: Option<Vec<Endpoint>>,
}

/// A need that was found.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct ImportedNeed {
    /// Who needs.
    by: String,
    /// What is needed.
    service: String,
    /// Where that was found: `file:line:column`.
    at: Option<String>,
}

/// The JSON Schema of a document of a catalog.
pub fn schema() -> Value {
    schemars::schema_for!(Document).to_value()
}
