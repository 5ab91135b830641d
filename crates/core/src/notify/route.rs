//! Whose findings a target is told.

use std::path::Path;

use super::{Target, Told, ToldFinding};

/// A target, and for whom it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Only their findings go there; where none is named, what has no target of its owner's.
    pub owners: Vec<String>,
    /// Where that is.
    pub target: Target,
}

impl Route {
    /// What was typed: a target, or `owner=NAME[,NAME...]` and a target. The error shows nothing of a URL.
    pub fn parse(text: &str, here: &Path) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix("owner=") else {
            let target = Target::parse(text, here)?;
            return Ok(Self {
                owners: Vec::new(),
                target,
            });
        };
        let Some((names, target)) = rest.split_once(char::is_whitespace) else {
            return Err("write `owner=NAME TARGET`, with a blank between them".to_owned());
        };
        let owners: Vec<String> = names.split(',').map(str::to_owned).collect();
        if owners.iter().any(String::is_empty) {
            return Err(
                "write a name after `owner=`, or several with commas between them".to_owned(),
            );
        }
        let target = Target::parse(target.trim_start(), here)?;
        if matches!(target, Target::Metrics(_)) {
            return Err(
                "sums are kept of all runs: leave `owner=` out before `metrics:`".to_owned(),
            );
        }
        Ok(Self { owners, target })
    }

    fn is_of(&self, owner: Option<&str>) -> bool {
        owner.is_some_and(|owner| self.owners.iter().any(|one| one == owner))
    }

    fn is_told(&self, finding: &ToldFinding, all: &[Self]) -> bool {
        let owner = finding.owner.as_deref();
        if !self.owners.is_empty() {
            return self.is_of(owner);
        }
        // Whoever reads a log of everything asked for everything.
        let calls = |route: &Self| matches!(route.target, Target::Alert(..));
        !calls(self) || !all.iter().any(|route| calls(route) && route.is_of(owner))
    }
}

impl Told {
    /// Only the findings that go along this route, one of all there are.
    pub fn along(&self, route: &Route, all: &[Route]) -> Self {
        let mut told = self.clone();
        told.findings.retain(|finding| route.is_told(finding, all));
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(text: &str) -> Route {
        Route::parse(text, Path::new("/here")).unwrap()
    }

    fn finding(owner: Option<&str>) -> ToldFinding {
        ToldFinding {
            id: "f".to_owned(),
            kind: "leftover".to_owned(),
            severity: crate::report::Severity::Warning,
            title: "t".to_owned(),
            owner: owner.map(str::to_owned),
            command: None,
            rule: None,
            reason: None,
            fix: None,
            reaction: None,
            circle: None,
            new: false,
        }
    }

    #[test]
    fn owners_stand_before_a_target() {
        assert_eq!(
            route("owner=team-db,team-web  slack:@url").owners,
            ["team-db", "team-web"]
        );
        assert_eq!(route("slack:@url").owners, Vec::<String>::new());
        for wrong in [
            "owner=team-db",
            "owner= slack:@url",
            "owner=a, slack:@url",
            "owner=a metrics:/m/b.prom",
            "owner=a slak:https://hooks.example/hidden",
            "owner=slack:https://hooks.example/hidden",
        ] {
            let error = Route::parse(wrong, Path::new("/")).unwrap_err();
            assert!(!error.contains("hidden"), "{error}");
        }
    }

    #[test]
    fn a_finding_goes_to_its_owner_or_to_those_of_nobody() {
        let all = [
            route("owner=team-db slack:@db"),
            route("owner=team-web,team-db webhook:@both"),
            route("slack:@rest"),
            route("file:/log"),
            route("owner=team-web file:/web"),
        ];
        let told = |owner| -> Vec<bool> {
            let finding = finding(owner);
            all.iter()
                .map(|route| route.is_told(&finding, &all))
                .collect()
        };
        assert_eq!(told(Some("team-db")), [true, true, false, true, false]);
        assert_eq!(told(Some("team-web")), [false, true, false, true, true]);
        assert_eq!(told(Some("team-dba")), [false, false, true, true, false]);
        assert_eq!(told(None), [false, false, true, true, false]);
    }
}
