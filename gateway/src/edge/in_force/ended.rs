//! Which flows end with a change of the configuration: those of services that are gone or have
//! changed.

use policy::gateway::Policy;
use policy::ruleset::{ServiceKind, ServiceMark};

/// Conntrack marks of the services that `new` no longer has, or has otherwise than `old`.
pub(super) fn ended(
    old: &Policy,
    old_marks: &[ServiceMark],
    new: &Policy,
    new_marks: &[ServiceMark],
) -> Vec<u32> {
    let stays = |mark: &ServiceMark| {
        let same_mark = new_marks.iter().any(|new| new.mark == mark.mark && new.name == mark.name);
        let publish = |policy: &Policy| policy.publish.iter().find(|entry| entry.name == mark.name).cloned();
        let allow = |policy: &Policy| policy.allow.iter().find(|entry| entry.name == mark.name).cloned();
        let same = match mark.kind {
            ServiceKind::Publish => publish(old) == publish(new),
            ServiceKind::Allow => allow(old) == allow(new),
        };
        same_mark && same
    };
    old_marks.iter().filter(|mark| !stays(mark)).map(|mark| mark.mark).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::example::{TEXT, policy};

    #[test]
    fn flows_of_changed_and_removed_services_end_and_others_go_on() {
        let old = policy(TEXT);
        let marks = |policy: &Policy| policy.plan().ruleset.services;
        let changed = policy(&TEXT.replace("192.168.88.2:6000", "192.168.88.3:6000"));
        let removed = policy(TEXT.split("[[publish]]\nname = \"game\"").next().unwrap());
        let game = marks(&old).iter().find(|mark| mark.name.as_str() == "game").unwrap().mark;
        assert!(ended(&old, &marks(&old), &old, &marks(&old)).is_empty());
        assert_eq!(ended(&old, &marks(&old), &changed, &marks(&changed)), [game]);
        assert_eq!(ended(&old, &marks(&old), &removed, &marks(&removed)), [game]);
        assert!(ended(&removed, &marks(&removed), &old, &marks(&old)).is_empty());
    }
}
