"""What gate and bridge cost, measured over real topics."""
