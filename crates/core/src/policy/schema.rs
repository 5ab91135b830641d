//! The JSON Schema of a policy file, by which editors complete and check one as it is written.
//!
//! The types here exist for the schema only: the parser reads the same keys on its own, because it has more to
//! say of a mistake than that there is one. A test holds the two together.
#![expect(dead_code, reason = "the types are only described, never made")]

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;

use super::{API_VERSION, Failure};

/// A policy: what a run may reach.
///
/// Unknown keys are errors. The order of rules has no meaning: the closest description of an attempt decides.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, rename = "Policy")]
struct File {
    /// The language's version.
    #[schemars(rename = "apiVersion", extend("const" = API_VERSION))]
    api_version: String,
    /// What this file is.
    #[schemars(extend("const" = "Policy"))]
    kind: String,
    /// What the run deploys.
    service: Option<String>,
    /// Observe records what would be refused, enforce refuses it. Each rule may say otherwise for itself.
    /// Observe, if nothing is said.
    mode: Option<ModeWord>,
    /// What holds where no rule does: allow for live deploys, deny for rehearsals. Allow, if nothing is said.
    default: Option<EffectWord>,
    /// How long an address stands for the name that it was given for: run is to the end of the run, ttl as long as
    /// the answer says, and no less than five seconds. Run, if nothing is said.
    lease: Option<LeaseWord>,
    /// Ports at which the names are read that connections give themselves: the server name of TLS, Host and CONNECT of
    /// HTTP. Where one address serves several names, a denied one is refused by it. An empty list reads none; of
    /// several files that say it, all ports are read. If nothing is said, 80, 443, 3128 and 8080, where some rule denies
    /// a name or the default denies, and 3128 and 8080, where one denies an address: a proxy may be asked for it.
    #[schemars(inner(range(min = 1)), length(max = 32))]
    inspect: Option<Vec<u16>>,
    /// What becomes of a connection to such a port whose TLS hello has an encrypted one in it (ECH), which may be for another
    /// name than the one that is shown: deny refuses it. Browsers, and others that pretend to (GREASE), always send one. Of
    /// several files that say it, deny holds. Allow, if nothing is said: it passes by the name that it shows, and is counted.
    hidden: Option<EffectWord>,
    /// Other policy files that belong to this one; a relative path is meant from this one's directory.
    include: Option<Vec<String>>,
    /// Services whose failure the run must survive: what the catalog says that they provide is denied, and so is
    /// all that cannot serve without them.
    protect: Option<Vec<String>>,
    /// Services of systemd (`mysql.service`, `app-*.service`) that this run starts or restarts: what they reach for from
    /// their start until they are active is recorded as part of the run, and never refused. Of several files that say
    /// it, all are followed.
    #[schemars(inner(regex(pattern = "\\.service$")))]
    follow: Option<Vec<String>>,
    /// What is allowed and denied.
    rules: Option<Vec<Rule>>,
    /// Exceptions, each with an owner, a reason and an end.
    waivers: Option<Vec<Waiver>>,
    /// What the run may use; of several files that say it, the tightest limits hold.
    limits: Option<LimitWords>,
    /// What is expected of this policy; `blackstart policy test` looks whether it holds.
    tests: Option<Vec<Test>>,
}

/// What a run may use of the host.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct LimitWords {
    /// Memory of all its processes together, such as `2GiB` or `512MiB`.
    memory: Option<String>,
    /// Processors, such as `1.5`.
    cpu: Option<NumberOrText>,
    /// Processes and threads at the same time.
    pids: Option<NumberOrText>,
    /// From the command's start to its end, such as `30m` or `1h30m`.
    time: Option<String>,
}

/// A number, in quotes or not.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum NumberOrText {
    Number(f64),
    Text(String),
}

/// One rule: either `allow` or `deny`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, extend("oneOf" = [{ "required": ["allow"] }, { "required": ["deny"] }]))]
struct Rule {
    /// What is let through: a name (`github.com`, `*.github.com` for all below it, `.github.com` for both), an
    /// address or a CIDR, each optionally with `:port` or `:first-last`, `*:port`, `service:NAME` or `unix:PATH`.
    allow: Option<String>,
    /// What is refused, in the same words.
    deny: Option<String>,
    /// With which protocol; with all, if nothing is said.
    protocol: Option<ProtocolWord>,
    /// For which processes: a program's name (`terraform`), its path (`/usr/bin/git*`), or `ancestor:` and one
    /// of these for all that it starts.
    process: Option<String>,
    /// For a deny: observe only records. The policy's mode, if nothing is said.
    mode: Option<ModeWord>,
    /// For a deny: how a refused attempt ends for the process. `refuse`, if nothing is said.
    on_match: Option<OnMatch>,
    /// For a deny that is enforced: `fail` lets a run that succeeded exit with 120. `warn`, if nothing is said.
    reaction: Option<ReactionWord>,
    /// Only in a guardrail: neither a waiver nor another rule goes before it.
    r#final: Option<bool>,
    /// Why the rule stands; it is shown with each refusal.
    reason: Option<String>,
    /// For a deny: what to do instead; it is shown with each refusal.
    fix: Option<String>,
}

/// An exception. It covers a name and the addresses that are found by it, and never what a final rule denies.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Waiver {
    /// What may be reached nevertheless, in the words of a rule.
    r#for: String,
    /// For which processes, as in a rule; for all, if nothing is said.
    process: Option<String>,
    /// Who answers for it.
    owner: String,
    /// Why there is one.
    reason: String,
    /// The last day on which it holds, in UTC.
    #[schemars(regex(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"), extend("format" = "date"))]
    expires: String,
}

/// An attempt, and what is expected of it.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Test {
    /// What is reached for: a name or an address, with or without `:port`, or `unix:PATH`.
    to: String,
    /// The address that the name leads to.
    address: Option<String>,
    /// What the process executes.
    process: Option<String>,
    /// What a process executes that it descends from, for rules about an `ancestor:`.
    ancestor: Option<String>,
    /// With which protocol; tcp, if nothing is said.
    protocol: Option<ProtocolWord>,
    /// What is expected.
    expect: VerdictWord,
    /// The rule that is expected to be behind it, as reports name it.
    rule: Option<String>,
}

#[derive(JsonSchema)]
#[schemars(inline, rename_all = "snake_case")]
enum ModeWord {
    Observe,
    Enforce,
}

#[derive(JsonSchema)]
#[schemars(inline, rename_all = "snake_case")]
enum EffectWord {
    Allow,
    Deny,
}

#[derive(JsonSchema)]
#[schemars(inline, rename_all = "snake_case")]
enum LeaseWord {
    Run,
    Ttl,
}

#[derive(JsonSchema)]
#[schemars(inline, rename_all = "snake_case")]
enum ProtocolWord {
    Tcp,
    Udp,
}

#[derive(JsonSchema)]
#[schemars(inline, rename_all = "snake_case")]
enum ReactionWord {
    Warn,
    Fail,
}

#[derive(JsonSchema)]
#[schemars(inline, rename_all = "snake_case")]
enum VerdictWord {
    Allow,
    Deny,
    WouldDeny,
    Waived,
}

/// Every way in which an attempt may fail.
struct OnMatch;

impl JsonSchema for OnMatch {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "OnMatch".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": Failure::all_words() })
    }
}

/// The JSON Schema of a policy file.
pub fn schema() -> Value {
    let mut schema = schemars::schema_for!(File).to_value();
    only_lists_may_be_empty(&mut schema);
    schema
}

/// A key with nothing after it is an empty list, where it takes a list, and otherwise a mistake.
fn only_lists_may_be_empty(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(only_lists_may_be_empty),
        Value::Object(object) => {
            if let Some(Value::Array(types)) = object.get_mut("type")
                && !types.contains(&"array".into())
            {
                types.retain(|of| of != "null");
                if let [one] = &types[..] {
                    let one = one.clone();
                    object.insert("type".to_owned(), one);
                }
            }
            if let Some(Value::Array(words)) = object.get_mut("enum") {
                words.retain(|word| !word.is_null());
            }
            object.values_mut().for_each(only_lists_may_be_empty);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse::{self, CASE_KEYS, KEYS, RULE_KEYS, WAIVER_KEYS};
    use super::*;

    fn properties(schema: &Value) -> Vec<&str> {
        let mut keys: Vec<_> = schema["properties"]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        keys.sort_unstable();
        keys
    }

    fn sorted<'k>(keys: &[&'k str]) -> Vec<&'k str> {
        let mut keys = keys.to_vec();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn the_schema_has_the_keys_that_the_parser_reads() {
        let schema = schema();
        assert_eq!(properties(&schema), sorted(KEYS));
        for (name, keys) in [
            ("Rule", RULE_KEYS),
            ("Waiver", WAIVER_KEYS),
            ("Test", CASE_KEYS),
        ] {
            assert_eq!(properties(&schema["$defs"][name]), sorted(keys), "{name}");
        }
    }

    #[test]
    fn the_schema_has_the_words_that_the_parser_reads() {
        let schema = schema();
        fn words<T>(choices: &[(&'static str, T)]) -> Value {
            choices.iter().map(|(word, _)| *word).collect()
        }
        let of = |schema: &Value, key: &str| schema["properties"][key]["enum"].clone();
        let (rule, test) = (&schema["$defs"]["Rule"], &schema["$defs"]["Test"]);
        assert_eq!(of(&schema, "mode"), words(parse::MODES));
        assert_eq!(of(&schema, "default"), words(parse::EFFECTS));
        assert_eq!(of(&schema, "lease"), words(parse::LEASES));
        assert_eq!(of(&schema, "hidden"), words(parse::EFFECTS));
        assert_eq!(of(rule, "mode"), words(parse::MODES));
        assert_eq!(of(rule, "protocol"), words(parse::PROTOCOLS));
        assert_eq!(of(rule, "reaction"), words(parse::REACTIONS));
        assert_eq!(of(test, "expect"), words(parse::VERDICTS));
        for word in of(rule, "on_match").as_array().unwrap() {
            assert!(Failure::parse(word.as_str().unwrap()).is_ok(), "{word}");
        }
    }
}
