package controller

func (c *Controller) backupOnly() {}
