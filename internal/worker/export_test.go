package worker

// Started is how many processes the pool has.
func (p *Pool) Started() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.all)
}
