//! Variables, as `huggingface_hub` reads them.

use std::fs;
use std::path::Path;

use longcat_hub::{HubError, HubSettings};

fn settings(variables: &[(&str, &str)], home: Option<&Path>) -> Result<HubSettings, HubError> {
    let variable = |name: &str| {
        let found = variables.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| value.to_string())
    };
    HubSettings::from_variables(&variable, home)
}

#[test]
fn the_cache_is_where_variables_say() {
    let cache = |variables: &[(&str, &str)]| {
        let settings = settings(variables, Some(Path::new("/home/u"))).unwrap();
        settings.cache.to_str().unwrap().to_string()
    };
    assert_eq!(cache(&[]), "/home/u/.cache/huggingface/hub");
    assert_eq!(cache(&[("XDG_CACHE_HOME", "/c")]), "/c/huggingface/hub");
    assert_eq!(
        cache(&[("HF_HOME", "~/hf"), ("XDG_CACHE_HOME", "/c")]),
        "/home/u/hf/hub"
    );
    assert_eq!(cache(&[("HF_HUB_CACHE", "/d"), ("HF_HOME", "/hf")]), "/d");
    assert_eq!(
        cache(&[("HUGGINGFACE_HUB_CACHE", "/e"), ("HF_HUB_CACHE", "")]),
        "/e"
    );
    assert!(matches!(settings(&[], None), Err(HubError::NoHome)));
    assert!(settings(&[("HF_HOME", "/hf")], None).is_ok());
}

#[test]
fn the_token_is_where_huggingface_cli_keeps_it() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    let from = |variables: &[(&str, &str)]| {
        let settings = settings(variables, Some(home)).unwrap();
        settings.token.map(|token| token.from().to_string())
    };
    assert_eq!(from(&[]), None);
    let kept = home.join(".cache/huggingface/token");
    fs::create_dir_all(kept.parent().unwrap()).unwrap();
    fs::write(&kept, "hf_kept\n").unwrap();
    assert_eq!(from(&[]).as_deref(), kept.to_str());
    assert_eq!(from(&[("HF_TOKEN", "hf_x")]).as_deref(), Some("HF_TOKEN"));
    let other = home.join("other");
    fs::write(&other, " \n").unwrap();
    let path = other.to_str().unwrap();
    assert_eq!(from(&[("HF_TOKEN_PATH", path)]), None);
    fs::write(&other, "hf_other").unwrap();
    assert_eq!(from(&[("HF_TOKEN_PATH", path)]).as_deref(), Some(path));
    assert_eq!(from(&[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
    let broken = settings(&[("HF_TOKEN", "hf x")], Some(home))
        .unwrap_err()
        .to_string();
    assert!(
        broken.contains("HF_TOKEN") && !broken.contains("hf x"),
        "{broken}"
    );
}

#[test]
fn hub_and_network_are_what_variables_say() {
    let read = |variables: &[(&str, &str)]| {
        let settings = settings(variables, Some(Path::new("/home/u"))).unwrap();
        (settings.endpoint, settings.offline)
    };
    let usual = "https://huggingface.co".to_string();
    assert_eq!(read(&[]), (usual.clone(), false));
    assert_eq!(
        read(&[("HF_ENDPOINT", "http://mirror/")]),
        ("http://mirror".into(), false)
    );
    for (value, offline) in [
        ("1", true),
        ("true", true),
        ("YES", true),
        ("0", false),
        ("", false),
    ] {
        assert_eq!(read(&[("HF_HUB_OFFLINE", value)]), (usual.clone(), offline));
    }
    assert!(read(&[("TRANSFORMERS_OFFLINE", "on")]).1);
}
