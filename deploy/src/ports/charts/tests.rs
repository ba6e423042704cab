//! Names of charts: what is taken, and that each has one spelling.

use super::*;

fn listed(repository: &str) -> Result<ChartAddress, &'static str> {
    ChartAddress::listed(repository, ChartName::parse("web").expect("a good name"))
}

#[test]
fn an_address_is_told_as_the_policy_names_it() {
    let rows = [
        (
            "oci://registry.example.com/team/web",
            "https://registry.example.com",
        ),
        ("oci://127.0.0.1:5000/a", "http://127.0.0.1:5000"),
        ("oci://localhost/a/b_c", "http://localhost"),
        ("oci://[::1]:5000/a", "http://[::1]:5000"),
        (
            "oci://localhost.example.com/a",
            "https://localhost.example.com",
        ),
    ];
    for (text, origin) in rows {
        let address = ChartAddress::oci(text).expect(text);
        assert_eq!(address.to_string(), text);
        assert_eq!(address.origin(), origin, "{text}");
    }
    let rows = [
        (
            "https://charts.example.com",
            "https://charts.example.com/web",
        ),
        (
            "https://charts.example.com/",
            "https://charts.example.com/web",
        ),
        (
            "https://charts.example.com:8443/a/b/",
            "https://charts.example.com:8443/a/b/web",
        ),
        ("http://127.0.0.1:80/a", "http://127.0.0.1:80/a/web"),
    ];
    for (text, told) in rows {
        assert_eq!(listed(text).expect(text).to_string(), told);
    }
}

#[test]
fn what_has_two_spellings_or_leads_elsewhere_is_refused() {
    for bad in [
        "oci://",
        "oci://host",
        "oci://host/",
        "oci:///a",
        "oci://Host/a",
        "oci://host/A",
        "oci://host/a/../b",
        "oci://host/a..b",
        "oci://host/a//b",
        "oci://host/a:1.2.3",
        "oci://host/a@sha256:1",
        "oci://user@host/a",
        "oci://host:/a",
        "oci://host:0/a",
        "oci://host:70000/a",
        "oci://host/a%2e",
        "oci://host/a?b",
        "oci://-host/a",
        "oci://[::2]/a",
        "oci://[::1]5/a",
        "https://host/a",
    ] {
        assert!(ChartAddress::oci(bad).is_err(), "{bad}");
    }
    for bad in [
        "charts.example.com",
        "https://",
        "https://Charts.example.com",
        "https://u:p@charts.example.com",
        "https://charts.example.com/a/../b",
        "https://charts.example.com//a",
        "https://charts.example.com/a?x=y",
        "https://charts.example.com/a%2fb",
        "https://charts.example.com/#a",
        "http://charts.example.com",
        "http://127.0.0.1.example.com",
        "file:///charts",
        "oci://charts.example.com/a",
    ] {
        assert!(listed(bad).is_err(), "{bad}");
    }
    for bad in ["", "a/b", "..", "-a", "a b", "https://x"] {
        assert!(ChartName::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn versions_are_exact_and_digests_whole() {
    for good in [
        "1.2.3",
        "v1.2.3",
        "0.0.1-rc.1",
        "1.2.3-a+b.7",
        "1.2.3+build",
    ] {
        assert!(ChartVersion::parse(good).is_ok(), "{good}");
    }
    for bad in [
        "", "1", "1.2", "1.2.x", "^1.2.3", ">=1.2.3", "~1.2.3", "latest", "1.2.3-", "1.2.3+",
        "vv1.2.3", "1.2.3 ", "1.2.3/a", "*", "1.2.3.4",
    ] {
        assert!(ChartVersion::parse(bad).is_err(), "{bad}");
    }
    assert_eq!(
        ChartVersion::parse("1.2.3+a").map(|v| v.tag()),
        Ok("1.2.3_a".to_owned())
    );
    let hex = "0a".repeat(32);
    assert!(ChartDigest::parse(&format!("sha256:{hex}")).is_ok());
    for bad in [
        "",
        "sha256:",
        "sha256:0a",
        &hex,
        &format!("sha256:{}", hex.to_uppercase()),
    ] {
        assert!(ChartDigest::parse(bad).is_err(), "{bad}");
    }
}
