//! The configuration file: TOML to typed values, checked as a whole, every complaint with file, line, key and remedy.
