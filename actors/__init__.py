"""The running system: replicas that learn and answer, the query actor that picks one, the supervisor over them. Ray lives here."""
