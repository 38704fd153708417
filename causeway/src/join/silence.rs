//! What it means that the edge does not answer, and where to look.

use std::net::SocketAddr;

use super::client::Reached;

/// Which side lost it, as far as this end can know.
///
/// `denied` is what this machine's system may deny, when nothing could be sent.
pub(super) fn meaning(reached: Reached, tried: &[SocketAddr], denied: Option<&str>) -> String {
    let at: Vec<String> = tried.iter().map(ToString::to_string).collect();
    let at = at.join(", ");
    match (reached, denied) {
        (Reached::Nothing, Some(denied)) => format!("this machine cannot send to {at}: {denied}"),
        (Reached::Nothing, None) => format!(
            "no answer from {at}. Look at `causeway pair` at the edge: if it has ended, as 15 minutes after it \
             printed the code, the code is of no use any more; if it shows 0 packets, they are lost before the edge \
             (the name, the router's forward of UDP, a firewall); if it shows packets, the code is not the one that \
             it shows; if it shows that a machine comes with the code, its replies are lost"
        ),
        (Reached::Refused, _) => format!(
            "{at} replies that nothing listens on that UDP port: the gateway is not running there, or the router \
             forwards the port to another machine"
        ),
        (Reached::Tunnel, _) => "the temporary tunnel is up, but the gateway does not take the connection: \
                            `causeway pair` has ended at the edge, or a second machine came with the code"
            .to_owned(),
        // Of two machines with one key only one gets what the edge sends.
        (Reached::Gateway, _) => {
            "the gateway took the connection, but `causeway pair` does not answer: it has ended \
                             at the edge, or a second machine came with the code"
                .to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_distance_names_the_side_to_look_at() {
        let tried = ["192.0.2.2:51820".parse().unwrap()];
        for (reached, words) in [
            (Reached::Nothing, "0 packets"),
            (Reached::Refused, "nothing listens"),
            (Reached::Tunnel, "does not take the connection: `causeway pair` has ended"),
            (Reached::Gateway, "does not answer: it has ended at the edge, or a second machine came"),
        ] {
            let text = meaning(reached, &tried, None);
            assert!(text.contains(words), "{text}");
        }
        assert!(meaning(Reached::Nothing, &tried, None).contains("192.0.2.2:51820"));
        let denied = meaning(Reached::Nothing, &tried, Some("allow it"));
        assert_eq!(denied, "this machine cannot send to 192.0.2.2:51820: allow it");
        assert!(!meaning(Reached::Tunnel, &tried, Some("allow it")).contains("allow it"));
    }
}
