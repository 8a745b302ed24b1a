"""The static walk: shapes, small constants and costs of every node, without running any."""
