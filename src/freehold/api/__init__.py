"""HTTP: a dialect is three thin files, schema, convert and routes; none knows another."""
