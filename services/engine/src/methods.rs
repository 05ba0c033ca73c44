//! Where do the payment methods come from? From the file that is built in, or the one that the configuration names.

use kassa_chassis::config::Config;
use kassa_domain::methods::{BUILT_IN, Catalogue};

/// The methods of this installation.
///
/// # Errors
/// When the file cannot be read, or with every problem that it has.
pub fn catalogue(config: &Config) -> anyhow::Result<Catalogue> {
    let file = config.methods.read(BUILT_IN)?;
    Catalogue::check(file)
        .map_err(|wrong| anyhow::anyhow!("the payment methods are not usable:\n{}", wrong.join("\n")))
}

#[cfg(test)]
mod tests {
    use kassa_domain::payment::Method;

    use super::*;

    #[test]
    fn every_method_that_we_know_is_in_the_built_in_file() {
        let catalogue = catalogue(&Config::default()).unwrap();
        for method in Method::ALL {
            assert!(catalogue.entry(*method).is_some(), "{}", method.as_str());
        }
    }

    #[test]
    fn a_file_with_a_slip_is_refused_by_the_name_of_its_key() {
        let path = std::env::temp_dir().join(format!("kassa-methods-{}.toml", uuid::Uuid::new_v4()));
        std::fs::write(&path, BUILT_IN.replace("provider_code", "provider_cod")).unwrap();
        let mut config = Config::default();
        config.methods.file = Some(path.clone());
        let error = format!("{:#}", catalogue(&config).unwrap_err());
        std::fs::remove_file(path).unwrap();
        assert!(error.contains("provider_cod"), "{error}");
        let config = Config {
            methods: kassa_chassis::config::Methods {
                file: Some("nowhere.toml".into()),
            },
            ..Config::default()
        };
        let error = format!("{:#}", catalogue(&config).unwrap_err());
        assert!(error.contains("nowhere.toml"), "{error}");
    }
}
