//! What a compromised daemon may send to the kernel helper.

use std::path::Path;
use std::sync::LazyLock;

use gateway::kernel::{Numbered, Request, Routing, Scope, decode};
use policy::Source;
use policy::prefix::lies_within;

static SCOPE: LazyLock<Scope> = LazyLock::new(|| {
    let source =
        Source { name: Path::new("gateway.toml"), text: include_str!("../../../configs/gateway.toml") };
    let policy = policy::gateway::parse(&source).expect("the example is valid");
    Scope::of(&policy, source.name)
});

/// The body of a frame is refused, or what is carried out is within the scope.
pub(crate) fn helper_request(input: &[u8]) {
    let Ok(Numbered { body, .. }) = decode::<Numbered<Request>>(input) else { return };
    match SCOPE.judge(body) {
        Err(_) => {}
        Ok(Request::CheckRuleset { ruleset } | Request::ApplyRuleset { ruleset }) => {
            ruleset_of_ours(&ruleset)
        }
        Ok(Request::AddRouting { routing } | Request::ApplyRouting { routing }) => routing_of_ours(&routing),
        Ok(Request::WriteSysctls { values }) => {
            assert!(values.iter().all(|(path, _)| path.starts_with("net/")), "another switch");
        }
        Ok(Request::Begin { .. } | Request::RemoveRouting) => panic!("a second scope, or a removal"),
        Ok(_) => {}
    }
}

/// It passes again unchanged, names no other table, and needs no quoting in any language.
fn ruleset_of_ours(ruleset: &str) {
    let again = SCOPE.judge(Request::ApplyRuleset { ruleset: ruleset.to_owned() });
    assert!(
        matches!(again, Ok(Request::ApplyRuleset { ruleset: same }) if same == ruleset),
        "read differently"
    );
    let plain = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    assert!(ruleset.bytes().all(plain) && !ruleset.contains(['\\', ';', '#']), "more than names and numbers");
}

fn routing_of_ours(routing: &Routing) {
    for route in &routing.routes {
        assert_eq!(route.table, SCOPE.table, "another table");
        assert!(lies_within(&SCOPE.asked.prefixes, route.destination), "a route outside the tunnel");
    }
    for address in &routing.addresses {
        assert!(lies_within(&SCOPE.asked.prefixes, *address), "an address outside the tunnel");
    }
}
