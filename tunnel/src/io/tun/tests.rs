use super::*;

#[test]
fn a_name_that_is_none_is_refused() {
    for name in ["sixteen-bytes-xx", "a/b", "gw%d"] {
        let options = TunOptions { name, persistent: false, offload: TunOffload { tcp: true, udp: true } };
        assert_eq!(Tun::open(&options).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name}");
    }
}

#[test]
fn a_descriptor_that_is_no_tun_device_is_refused() {
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(Tun::from_fd(file.into(), TunOffload { tcp: true, udp: true }).is_err());
}
