"""The net under every conversion: what leaves has been compared with what it means."""
