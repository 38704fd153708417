use super::*;

#[test]
fn the_example_of_the_design_is_read() {
    let stack = parse(
        r#"
[secrets.monitoring]
GRAFANA_ADMIN_PASSWORD = { kind = "password", length = 24 }
[secrets.authelia]
AUTHELIA_SESSION_SECRET = { kind = "base64", bytes = 32 }
ADMIN_PASSWORD = { kind = "password", length = 24, show_once = true }
ADMIN_PASSWORD_HASH = { kind = "argon2id", of = "ADMIN_PASSWORD" }
AUTHELIA_OIDC_JWKS_KEY = { kind = "rsa", bits = 2048 }
[actions.caddy]
validate = ["@compose", "run", "--rm", "--no-deps", "caddy", "caddy", "validate", "--config", "/etc/caddy/Caddyfile"]
[hooks.immich]
post_up = [{ run = "./bootstrap-admin.sh", cwd = "immich", on_failure = "warn" }]
[clean.immich]
files = ["immich/config/immich.json"]
data = ["immich/upload/*"]
volumes = ["immich_immich_postgres_data"]
[depends]
caddy = ["authelia"]
[place]
kyiv = ["emby"]
[location.kyiv]
host = "ssh://pi@192.168.1.2:22"
path = "/srv/docker-compose"
[file."monitoring/grafana.ini"]
mode = "0640"
owner = "472:0"
[up.immich]
wait = "5m"
"#,
    )
    .expect("valid");
    assert_eq!(stack.secrets_of("authelia").count(), 4);
    assert_eq!(stack.hashes_of("ADMIN_PASSWORD").count(), 1);
    assert_eq!(stack.files["monitoring/grafana.ini"], FileRule { mode: Some(0o640), owner: Some((472, 0)) });
    assert_eq!(stack.wait["immich"], Duration::from_secs(300));
    assert!(!stack.post_up["immich"][0].fatal);
}

#[test]
fn mistakes_are_reported_with_a_position_and_a_fix() {
    for (text, line, column, says) in [
        ("[secret.x]\nA = 1\n", 1, 2, "did you mean secrets?"),
        ("[secrets.x]\nAAA = { kind = \"pasword\" }", 2, 16, "did you mean password?"),
        ("[secrets.x]\nAAA = { kind = \"uuid\", length = 3 }", 2, 16, "takes no \"length\""),
        ("[secrets.x]\nAAA = { kind = \"password\", length = 7 }", 2, 16, "length is 8 to 256"),
        ("[secrets.x]\nAAA = { kind = \"hex\", bytes = 7 }", 2, 16, "bytes is 8 to 1024"),
        ("[secrets.x]\nAAA = { kind = \"base64\", bytes = 15 }", 2, 16, "bytes is 16 to 1024"),
        ("[secrets.x]\nAAA = { kind = \"rsa\", bits = 1024 }", 2, 16, "2048, 3072 or 4096"),
        ("[secrets.x]\nAAA = { kind = \"bcrypt\" }", 2, 16, "needs of"),
        ("[secrets.x]\nAAA = { kind = \"literal\" }", 2, 16, "needs value"),
        ("[secrets.x]\nAAA = { kind = \"bcrypt\", of = \"AAA\" }", 2, 31, "itself a hash"),
        ("[secrets.x]\n\"A-B\" = { kind = \"uuid\" }", 2, 1, "variable's name"),
        (
            "[secrets.x]\nAAA = { kind = \"uuid\" }\n[secrets.y]\nAAA = { kind = \"uuid\" }",
            4,
            1,
            "declared twice",
        ),
        ("[actions.x]\nrun = []", 2, 1, "a program and its arguments"),
        ("[actions.x]\nrun = [\"a\", \"@compose\"]", 2, 1, "only come first"),
        ("[hooks.x]\npost_up = [{ run = \"a\", on_failure = \"no\" }]", 2, 38, "\"warn\" or \"fatal\""),
        ("[clean.x]\ndata = [\"../y\"]", 2, 9, "leaves the location"),
        ("[location.x]\nhost = \"tcp://x\"\npath = \"/\"", 2, 8, "ssh://"),
        ("[location.x]\nhost = \"ssh://-oProxyCommand=x\"\npath = \"/\"", 2, 8, "ssh://"),
        ("[file.\"a\"]\nmode = \"rw\"", 2, 8, "octal"),
        ("[file.\"a\"]\nowner = \"root\"", 2, 9, "numbers"),
        ("[file.\"/a\"]\nmode = \"0600\"", 1, 7, "below the location"),
        ("[up.x]\nwait = \"2h\"", 2, 8, "1s to 3600s"),
        ("[depends]\ncaddy = 3", 2, 9, "invalid type"),
    ] {
        let error = parse(text).expect_err(text);
        assert_eq!((error.position.line, error.position.column), (line, column), "{text}: {error}");
        assert!(error.message.contains(says), "{text}: {error}");
    }
}
