//! Whether a service came up: judged from its containers, one look at a time.

/// What one look shows of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look<'l> {
    /// The Compose service.
    pub service: &'l str,
    /// `running`, `exited`, `restarting`…
    pub status: &'l str,
    /// `healthy`, `unhealthy`, `starting`, or `-` without a check.
    pub health: &'l str,
    /// The last exit code.
    pub exit_code: i64,
    /// Whether Docker starts it again when it ends.
    pub restarts: bool,
}

/// What the looks at all containers of a service come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every wanted container runs and is healthy, or did its one job.
    Healthy,
    /// Not yet: what is waited for.
    Waiting(String),
    /// A container that will not come up by itself, and why.
    Failed {
        /// The Compose service.
        service: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Judges the containers of a project against the services it must have.
#[must_use]
pub fn judge(wanted: &[&str], looks: &[Look<'_>]) -> Verdict {
    let mut waiting = Vec::new();
    for service in wanted {
        if !looks.iter().any(|look| look.service == *service) {
            waiting.push(format!("{service} missing"));
        }
    }
    for look in looks.iter().filter(|look| wanted.contains(&look.service)) {
        let failed = |why: String| Verdict::Failed { service: look.service.to_owned(), why };
        match (look.status, look.health) {
            ("running", "healthy" | "-") => {}
            ("running", "unhealthy") => return failed("its health check fails".into()),
            ("exited", _) if look.exit_code == 0 && !look.restarts => {}
            ("exited" | "dead", _) if !look.restarts => {
                return failed(format!("it ended with code {}", look.exit_code));
            }
            (status, "-") => waiting.push(format!("{} {status}", look.service)),
            (_, health) => waiting.push(format!("{} {health}", look.service)),
        }
    }
    if waiting.is_empty() { Verdict::Healthy } else { Verdict::Waiting(waiting.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_healthy_when_each_container_is_or_did_its_job() {
        let looks =
            [look("web", "running", "healthy"), look("db", "running", "-"), look("init", "exited", "-")];
        assert_eq!(judge(&["web", "db", "init"], &looks), Verdict::Healthy);
        assert_eq!(judge(&["web", "cache"], &looks), Verdict::Waiting("cache missing".into()));
    }

    #[test]
    fn starting_and_restarting_are_waited_for() {
        let looks = [look("web", "running", "starting"), look("db", "restarting", "-")];
        assert_eq!(judge(&["web", "db"], &looks), Verdict::Waiting("web starting, db restarting".into()));
        let mut again = look("web", "exited", "-");
        (again.exit_code, again.restarts) = (1, true);
        assert!(matches!(judge(&["web"], &[again]), Verdict::Waiting(_)));
    }

    #[test]
    fn what_will_not_come_up_by_itself_fails_at_once() {
        let sick = judge(&["web"], &[look("web", "running", "unhealthy")]);
        assert_eq!(sick, Verdict::Failed { service: "web".into(), why: "its health check fails".into() });
        let mut ended = look("web", "exited", "-");
        ended.exit_code = 3;
        assert!(
            matches!(judge(&["web"], &[ended]), Verdict::Failed { why, .. } if why == "it ended with code 3")
        );
    }

    fn look<'l>(service: &'l str, status: &'l str, health: &'l str) -> Look<'l> {
        Look { service, status, health, exit_code: 0, restarts: false }
    }
}
