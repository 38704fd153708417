//! Root's own texts, read by the helper itself: it may do what they ask for.

use policy::Source;
use policy::gateway::parse;

use super::scope::{Scope, Texts};
use daemon::changes::{OperatorState, is_trusted};
use daemon::files::read_text;

/// Adds to the scope what root's texts ask for by now.
///
/// A text counts only if its owner alone may write it, and that is not this process's user. What
/// was within the scope before stays in it, since a rollback leads there.
pub(super) fn widen(scope: &mut Scope) {
    let Some(Texts { file, folder }) = scope.texts.clone() else { return };
    let own = is_trusted(&file).then(|| read_text(&file).ok()).flatten();
    for text in own.into_iter().chain(OperatorState::at(&folder).texts()) {
        if let Ok(policy) = parse(&Source { name: &file, text: &text }) {
            scope.asked.widen(Scope::of(&policy, &file).asked);
        }
    }
}
